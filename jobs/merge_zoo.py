"""Ray job: merges a zoo; `lego_ray.jobs.merge_zoo`, for those who submit a checkout."""

from __future__ import annotations

from lego_ray.jobs.merge_zoo import main

if __name__ == "__main__":
    main()
