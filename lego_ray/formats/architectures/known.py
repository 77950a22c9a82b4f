"""Which models the names of an adapter's modules are of, as far as the tables know."""

from __future__ import annotations

from collections.abc import Iterable

from lego_ray.formats.architectures import ARCHITECTURES
from lego_ray.formats.module_names import DENOISER, parse_name


def architectures_of(sites: Iterable[str]) -> tuple[str, ...]:
    """Names of the models whose tables have every module of the denoiser, one of them at least.

    Several models may share the names that an adapter has; then all are named.

    Args:
        sites: Names of modules.
    """
    paths = {name.path for name in map(parse_name, sites) if name.component.startswith(DENOISER)}
    if not paths:
        return ()
    return tuple(
        each.name for each in ARCHITECTURES if all(each.read(path) is not None for path in paths)
    )
