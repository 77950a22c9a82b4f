"""Ray job: indexes adapters; `lego_ray.jobs.build_catalog`, for those who submit a checkout."""

from __future__ import annotations

from lego_ray.jobs.build_catalog import main

if __name__ == "__main__":
    main()
