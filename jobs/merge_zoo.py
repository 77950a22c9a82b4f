"""Ray job: merges a zoo into one adapter, or, given a recipe file, into a library.

    ray job submit -- python -m jobs.merge_zoo s3://zoo/adapters --rank 16 --output s3://zoo/merged
    ray job submit -- python -m jobs.merge_zoo library.yaml --output s3://zoo/library

The flags are those of `lego-ray merge` and `lego-ray build`; the last line of the log is the record.
Exit status 0: done; 1: the run failed, nothing was published; 2: bad input.
"""

from __future__ import annotations

import sys

from jobs.entry import run
from lego_ray.cli.build import build
from lego_ray.cli.merge import merge

if __name__ == "__main__":
    is_library = sys.argv[1:2] and sys.argv[1].endswith((".yaml", ".yml"))
    run(build if is_library else merge, "jobs.merge_zoo")
