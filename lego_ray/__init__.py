"""lego-ray: merges zoos of LoRA adapters by their minimal semantic units, on Ray, with a catalog.

`inspect`, `scan`, `init`, `plan`, `merge`, `tune`, `build`, `update`, `refresh`, `status`, `verify`,
`report`, `compare`, `publish` and `bake` are the command line's verbs as calls. `lego_ray.catalog` has
the catalog's, except `check_catalog`, `repair_catalog`, `adopt_merge`, `collect_garbage` and
`write_catalog_site`, which look at outputs too.
Importing this package loads neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lego_ray import catalog
    from lego_ray.api.bake import bake
    from lego_ray.api.build import build
    from lego_ray.api.catalog_site import write_catalog_site
    from lego_ray.api.compare import compare
    from lego_ray.api.init import InitRecord, init
    from lego_ray.api.inspect import InspectRecord, inspect
    from lego_ray.api.merge import merge
    from lego_ray.api.merge_ranks import merge_ranks
    from lego_ray.api.plan import plan, plan_ranks
    from lego_ray.api.progress_bar import ProgressBar
    from lego_ray.api.publish import publish
    from lego_ray.api.refresh import refresh
    from lego_ray.api.report import report
    from lego_ray.api.scan import ScanRecord, scan
    from lego_ray.api.status import library_status, status
    from lego_ray.api.tune import tune
    from lego_ray.api.update import update
    from lego_ray.api.verify import verify
    from lego_ray.audit.adopt import adopt_merge
    from lego_ray.audit.check import check_catalog
    from lego_ray.audit.collect import collect_garbage
    from lego_ray.audit.record import AdoptRecord, CatalogCheck, CatalogRepair, Garbage
    from lego_ray.audit.repair import repair_catalog
    from lego_ray.baking.record import BakeRecord
    from lego_ray.library.progress import LibraryStatus
    from lego_ray.library.record import LibraryRecord, RefreshRecord, VersionRecord
    from lego_ray.merging.record import MergeRecord, UpdateRecord
    from lego_ray.output.progress import StatusRecord
    from lego_ray.output.publish_record import PublishRecord
    from lego_ray.planning.plan import Plan
    from lego_ray.reporting.record import ReportRecord
    from lego_ray.reporting.site.record import SiteRecord
    from lego_ray.tuning.record import TuneRecord
    from lego_ray.verification.comparison_record import MergeComparison
    from lego_ray.verification.record import Verification

__all__ = [
    "AdoptRecord",
    "BakeRecord",
    "CatalogCheck",
    "CatalogRepair",
    "Garbage",
    "InitRecord",
    "InspectRecord",
    "LibraryRecord",
    "LibraryStatus",
    "MergeComparison",
    "MergeRecord",
    "Plan",
    "ProgressBar",
    "PublishRecord",
    "RefreshRecord",
    "ReportRecord",
    "ScanRecord",
    "SiteRecord",
    "StatusRecord",
    "TuneRecord",
    "UpdateRecord",
    "Verification",
    "VersionRecord",
    "adopt_merge",
    "bake",
    "build",
    "catalog",
    "check_catalog",
    "collect_garbage",
    "compare",
    "init",
    "inspect",
    "library_status",
    "merge",
    "merge_ranks",
    "plan",
    "plan_ranks",
    "publish",
    "refresh",
    "repair_catalog",
    "report",
    "scan",
    "status",
    "tune",
    "update",
    "verify",
    "write_catalog_site",
]
__version__ = "0.2.0"

# Each call has a separate module, since some of them do not need torch.
_HOMES = {
    "VersionRecord": "lego_ray.library.record",
    "Verification": "lego_ray.verification.record",
    "LibraryStatus": "lego_ray.library.progress",
    "StatusRecord": "lego_ray.output.progress",
    "ScanRecord": "lego_ray.api.scan",
    "RefreshRecord": "lego_ray.library.record",
    "ReportRecord": "lego_ray.reporting.record",
    "PublishRecord": "lego_ray.output.publish_record",
    "SiteRecord": "lego_ray.reporting.site.record",
    "write_catalog_site": "lego_ray.api.catalog_site",
    "Plan": "lego_ray.planning.plan",
    "ProgressBar": "lego_ray.api.progress_bar",
    "InitRecord": "lego_ray.api.init",
    "InspectRecord": "lego_ray.api.inspect",
    "LibraryRecord": "lego_ray.library.record",
    "Garbage": "lego_ray.audit.record",
    "CatalogRepair": "lego_ray.audit.record",
    "CatalogCheck": "lego_ray.audit.record",
    "AdoptRecord": "lego_ray.audit.record",
    "BakeRecord": "lego_ray.baking.record",
    "bake": "lego_ray.api.bake",
    "adopt_merge": "lego_ray.audit.adopt",
    "MergeComparison": "lego_ray.verification.comparison_record",
    "TuneRecord": "lego_ray.tuning.record",
    "MergeRecord": "lego_ray.merging.record",
    "UpdateRecord": "lego_ray.merging.record",
    "build": "lego_ray.api.build",
    "check_catalog": "lego_ray.audit.check",
    "collect_garbage": "lego_ray.audit.collect",
    "compare": "lego_ray.api.compare",
    "init": "lego_ray.api.init",
    "inspect": "lego_ray.api.inspect",
    "library_status": "lego_ray.api.status",
    "merge": "lego_ray.api.merge",
    "merge_ranks": "lego_ray.api.merge_ranks",
    "plan": "lego_ray.api.plan",
    "plan_ranks": "lego_ray.api.plan",
    "publish": "lego_ray.api.publish",
    "refresh": "lego_ray.api.refresh",
    "repair_catalog": "lego_ray.audit.repair",
    "report": "lego_ray.api.report",
    "scan": "lego_ray.api.scan",
    "status": "lego_ray.api.status",
    "tune": "lego_ray.api.tune",
    "update": "lego_ray.api.update",
    "verify": "lego_ray.api.verify",
}


def __getattr__(name: str) -> Any:
    if name == "catalog":
        return import_module("lego_ray.catalog")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
