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


def stray_of(sites: Iterable[str]) -> str:
    """The first module of a denoiser that is in no table, where one table has most of the others.

    Args:
        sites: Names of modules.

    Returns:
        Its name; empty if a table has all modules, or none has more than half.
    """
    paths = {
        site: name.path
        for site in sorted(sites)
        if (name := parse_name(site)).component.startswith(DENOISER)
    }
    missing = [
        [site for site, path in paths.items() if each.read(path) is None] for each in ARCHITECTURES
    ]
    fewest = min(missing, key=len)
    return fewest[0] if fewest and 2 * len(fewest) < len(paths) else ""
