"""How much each site counts: the factors a user gave by name, and the sites they mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from lego_ray.errors import InvalidOption

FLAG = "--site-scale"

Number = TypeVar("Number", int, float)


def checked_site_scales(scales: Mapping[str, float]) -> dict[str, float]:
    """Checks factors as they were given, before any site is known.

    Args:
        scales: Factor on a site's merged update, by the site's name or a glob pattern.

    Raises:
        InvalidOption: If it is not a mapping of names to finite numbers other than 0.
    """
    if not isinstance(scales, Mapping):
        raise InvalidOption(FLAG, f"{scales!r} is not a mapping of names to numbers")
    for name, scale in scales.items():
        if not isinstance(name, str) or not name:
            raise InvalidOption(FLAG, f"{name!r} is not a name of a site")
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not math.isfinite(scale) or scale == 0:
            raise InvalidOption(
                FLAG, f"{name} has {scale!r}, which is not a finite number other than 0"
            )
    return {name: float(scale) for name, scale in scales.items()}


def site_scales_of(
    sites: Sequence[str], scales: Mapping[str, float], *, complete: bool
) -> dict[str, float]:
    """The factor of each site that has one other than 1.

    A name means the sites whose path it is, or whose last parts it is, as it stands or as a glob
    pattern: `q_proj`, `layers.0.*`, `*.mlp.*`. A whole path counts before a name as it stands, and
    that before a pattern.

    Args:
        sites: Paths of all sites.
        scales: As `checked_site_scales` gives them.
        complete: Whether a name that means no site is wrong; else its site may have gone with an
            adapter whose weights turned out bad.

    Raises:
        InvalidOption: If a name means no site, or two that count alike give one site different factors.
    """
    found = by_site(sites, scales, FLAG, complete=complete)
    return {site: scale for site, scale in found.items() if scale != 1}


def by_site(
    sites: Sequence[str], given: Mapping[str, Number], flag: str, *, complete: bool
) -> dict[str, Number]:
    """What each site is given by the names that mean it; sites that none means are left out.

    Args:
        sites: Paths of all sites.
        given: A number by name or glob pattern, as for `site_scales_of`.
        flag: What to call it in errors.
        complete: Whether a name that means no site is wrong.

    Raises:
        InvalidOption: If a name means no site, or two that count alike give one site different ones.
    """
    for name in given:
        if complete and not any(means_site(name, site) for site in sites):
            raise _unknown(name, sites, flag)
    found = {site: _number(site, given, flag) for site in sites}
    return {site: number for site, number in found.items() if number is not None}


def _number(site: str, given: Mapping[str, Number], flag: str) -> Number | None:
    whole = {name: c for name, c in given.items() if name == site}
    plain = whole or {name: c for name, c in given.items() if name in _names(site)}
    found = plain or {name: c for name, c in given.items() if means_site(name, site)}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}={number:g}" for name, number in sorted(found.items()))
        raise InvalidOption(
            flag, f"{site} is meant by {listed}", "Give the one of this site by its path alone."
        )
    return next(iter(found.values()), None)


def means_site(name: str, site: str) -> bool:
    """Whether a name or glob pattern means a site; see `site_scales_of`."""
    return any(own == name or fnmatchcase(own, name) for own in _names(site))


def _names(site: str) -> Iterator[str]:
    """Last parts of a site's path, the whole last."""
    parts = site.split(".")
    for start in range(len(parts) - 1, -1, -1):
        yield ".".join(parts[start:])


def _unknown(name: str, sites: Sequence[str], flag: str) -> InvalidOption:
    names = sorted({own for site in sites for own in (site, site.rsplit(".", 1)[-1])}, key=len)
    near = get_close_matches(name, names, 1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(names[:10])}."
    return InvalidOption(flag, f"no site is called {name}", hint)
