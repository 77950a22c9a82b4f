"""Which models the names of an adapter's modules are of, as far as the tables know."""

from __future__ import annotations

from collections.abc import Iterable

from lego_ray.formats.architectures import ARCHITECTURES
from lego_ray.formats.architectures.rows import Architecture
from lego_ray.formats.module_names import DENOISER, parse_name
from lego_ray.formats.site_factors import SiteFactors


def architectures_of(sites: Iterable[SiteFactors]) -> tuple[str, ...]:
    """Names of the models whose tables have every module of the denoiser, one of them at least.

    Several models may share the names that an adapter has; then all are named, unless the widths of one
    are right, which are no other's.

    Args:
        sites: An adapter's.
    """
    named = [(parse_name(each.site), each) for each in sites]
    mine = [(name.path, each) for name, each in named if name.component.startswith(DENOISER)]
    if not mine:
        return ()
    found = [
        model
        for model in ARCHITECTURES
        if all(model.read(path) is not None for path, _ in mine)
        and not (model.is_exact and not _fits(model, mine))
    ]
    return tuple(each.name for each in [each for each in found if each.is_exact] or found)


def _fits(model: Architecture, modules: Iterable[tuple[str, SiteFactors]]) -> bool:
    readings = ((model.read(path), each) for path, each in modules)
    return all(found and found.fits(each.d_in, each.d_out) for found, each in readings)


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
