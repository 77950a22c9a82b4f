"""Whether `module` in a path is the attribute of DDP's wrapper or a part of the model. Pure.

One adapter cannot tell, several can: where one has the same path without it, it is a wrapper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lego_ray.formats.module_names import parse_name
from lego_ray.formats.wrappers import IN_DOUBT, without_doubt

# A path up to a place, its numbers left out.
_Parent = tuple[str, ...]


def without_wrappers(adapters: Sequence[Sequence[str]]) -> dict[str, str]:
    """New names of sites whose paths have `module` where it is a wrapper's.

    It is one if another name of the zoo is the same without it, or if other adapters have names below
    the same place that go without it, and none has both kinds there.

    Args:
        adapters: The sites of each adapter.
    """
    names = {site for sites in adapters for site in sites}
    asked = {site for site in names if IN_DOUBT in site.split(".")}
    wrappers = _wrappers(adapters, asked, names) if asked else set()
    renames = {site: _drop(site, wrappers) for site in asked} | _flat(adapters, names)
    return {site: new for site, new in renames.items() if new != site}


def _flat(adapters: Sequence[Sequence[str]], names: set[str]) -> dict[str, str]:
    """New names of sites whose dots are underscores and whose path begins with `module`.

    There the path shows no more than whether another name is the same without it.
    """
    renames: dict[str, str] = {}
    for site in names:
        name = parse_name(site)
        plain = name.prefix + name.path.removeprefix(f"{IN_DOUBT}_")
        if name.is_flat and plain != site and plain in names:
            renames[site] = plain
    two = {s for mine in map(set, adapters) for s, plain in renames.items() if {s, plain} <= mine}
    return {site: plain for site, plain in renames.items() if site not in two}


def still_in_doubt(sites: Iterable[str]) -> str:
    """A site whose path has `module` where nothing shows which it is; empty if there is none."""
    names = set(sites)
    asked = sorted(site for site in names if IN_DOUBT in site.split("."))
    if not asked:
        return ""
    beside = {parent for site in names for parent, part in _places(site) if part != IN_DOUBT}
    return next(
        (s for s in asked if all(p not in beside for p, part in _places(s) if part == IN_DOUBT)),
        "",
    )


def _wrappers(adapters: Sequence[Sequence[str]], asked: set[str], names: set[str]) -> set[_Parent]:
    parents = {parent for site in asked for parent, part in _places(site) if part == IN_DOUBT}
    found = {
        parent
        for site in asked
        if without_doubt(site) in names
        for parent, part in _places(site)
        if part == IN_DOUBT
    }
    through: set[_Parent] = set()
    beside: set[_Parent] = set()
    mixed: set[_Parent] = set()
    for sites in adapters:
        mine: dict[_Parent, set[bool]] = {}
        for site in sites:
            for parent, part in _places(site):
                if parent in parents:
                    mine.setdefault(parent, set()).add(part == IN_DOUBT)
        for parent, kinds in mine.items():
            (mixed if len(kinds) > 1 else through if True in kinds else beside).add(parent)
    return found | ((through & beside) - mixed)


def _places(site: str) -> Iterator[tuple[_Parent, str]]:
    """Each part of a path with what stands before it, less numbers and other such parts.

    What follows such a part is below it, and so not below the place itself.
    """
    before: list[str] = []
    inside = False
    for part in site.split("."):
        below = inside and part != IN_DOUBT
        yield (*before, IN_DOUBT) if below else tuple(before), part
        inside = part == IN_DOUBT
        if not inside:
            before.append("#" if part.isdecimal() else part)


def _drop(site: str, wrappers: set[_Parent]) -> str:
    kept = [part for (parent, part) in _places(site) if part != IN_DOUBT or parent not in wrappers]
    return ".".join(kept)
