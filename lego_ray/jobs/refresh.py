"""`lego_ray.jobs.refresh_library`, by the name of its command.

ray job submit -- python -m lego_ray.jobs.refresh s3://zoo/library.yaml
"""

from __future__ import annotations

from lego_ray.jobs.refresh_library import main

if __name__ == "__main__":
    main()
