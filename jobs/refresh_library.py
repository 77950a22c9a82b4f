"""Ray job: refreshes a library; `lego_ray.jobs.refresh_library`, for those who submit a checkout."""

from __future__ import annotations

from lego_ray.jobs.refresh_library import main

if __name__ == "__main__":
    main()
