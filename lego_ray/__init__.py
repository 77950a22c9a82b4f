"""lego-ray: merges zoos of LoRA adapters by their minimal semantic units, on Ray, with a catalog.

`scan`, `plan`, `merge`, `build`, `update`, `refresh`, `status`, `verify` and `publish` are the command
line's verbs as calls; `lego_ray.catalog` has the catalog's, except `check_catalog`, `repair_catalog` and
`collect_garbage`, which look at outputs too. Importing this package loads neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lego_ray import catalog
    from lego_ray.execution.api import merge, plan, scan, verify
    from lego_ray.execution.building import build
    from lego_ray.execution.checking import check_catalog
    from lego_ray.execution.delivery import publish
    from lego_ray.execution.garbage.collecting import collect_garbage
    from lego_ray.execution.refreshing import refresh
    from lego_ray.execution.repairing import repair_catalog
    from lego_ray.execution.status import status
    from lego_ray.execution.updating.updating import update

__all__ = [
    "build",
    "catalog",
    "check_catalog",
    "collect_garbage",
    "merge",
    "plan",
    "publish",
    "refresh",
    "repair_catalog",
    "scan",
    "status",
    "update",
    "verify",
]
__version__ = "0.1.0"

_ELSEWHERE = {
    "build": "lego_ray.execution.building",
    "check_catalog": "lego_ray.execution.checking",
    "publish": "lego_ray.execution.delivery",
    "collect_garbage": "lego_ray.execution.garbage.collecting",
    "refresh": "lego_ray.execution.refreshing",
    "repair_catalog": "lego_ray.execution.repairing",
    "status": "lego_ray.execution.status",
    "update": "lego_ray.execution.updating.updating",
}


def __getattr__(name: str) -> Any:
    if name == "catalog":
        return import_module("lego_ray.catalog")
    if name in _ELSEWHERE:
        # Not by way of the other calls: some of these need no torch.
        return getattr(import_module(_ELSEWHERE[name]), name)
    if name in __all__:
        return getattr(import_module("lego_ray.execution.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
