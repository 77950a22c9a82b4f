"""Ray job: indexes adapters, from their headers, in a catalog.

    ray job submit -- python -m lego_ray.jobs.build_catalog s3://zoo/adapters --catalog s3://zoo/catalog

The flags are those of `lego-ray scan`; the last line of the log is the record. It reads headers, on the
node the job was put on, and needs no worker. Exit status 0: done; 1: `--strict`, and an adapter was
refused; 2: bad input.
"""

from __future__ import annotations

from lego_ray.cli.scan import scan
from lego_ray.jobs.entry import run


def main() -> None:
    """Runs the command with the arguments of this process."""
    run(scan, "lego_ray.jobs.build_catalog")


if __name__ == "__main__":
    main()
