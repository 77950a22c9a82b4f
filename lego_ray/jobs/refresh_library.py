"""Ray job: brings a library up to date; safe to run on a schedule.

    ray job submit -- python -m lego_ray.jobs.refresh_library s3://zoo/library.yaml \
        --output s3://zoo/library --catalog s3://zoo/catalog

The flags are those of `lego-ray refresh`; the last line of the log is the record. Nothing new: nothing
is merged. Two at once: one works, the other ends with exit status 0 and says who does (`"status":
"busy"`).
Exit status 0: done; 1: the run failed, nothing was published, and the next goes on; 2: bad input.
"""

from __future__ import annotations

from lego_ray.cli.refresh import refresh
from lego_ray.jobs.entry import run


def main() -> None:
    """Runs the command with the arguments of this process."""
    run(refresh, "lego_ray.jobs.refresh_library")


if __name__ == "__main__":
    main()
