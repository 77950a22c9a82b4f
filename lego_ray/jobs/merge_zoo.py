"""Ray job: merges a zoo into one adapter, or, given a recipe file, into a library.

    ray job submit -- python -m lego_ray.jobs.merge_zoo s3://zoo/adapters --rank 16 --output s3://zoo/merged
    ray job submit -- python -m lego_ray.jobs.merge_zoo library.yaml --output s3://zoo/library

The flags are those of `lego-ray merge` and `lego-ray build`; the last line of the log is the record.
Exit status 0: done; 1: the run failed, nothing was published; 2: bad input.
"""

from __future__ import annotations

import sys

from lego_ray.cli.build import build
from lego_ray.cli.merge import merge
from lego_ray.jobs.entry import run


def main() -> None:
    """Runs the command with the arguments of this process."""
    is_library = sys.argv[1:2] and sys.argv[1].endswith((".yaml", ".yml"))
    run(build if is_library else merge, "lego_ray.jobs.merge_zoo")


if __name__ == "__main__":
    main()
