"""Files that hold one module under two names: two spellings, or those of its authors and diffusers."""

from __future__ import annotations

from collections.abc import Iterable

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.architectures import ARCHITECTURES
from lego_ray.formats.architectures.rows import Architecture
from lego_ray.formats.module_names import ModuleName, parse_name
from lego_ray.formats.text_encoders import parse_names


def check_named_once(sites: Iterable[str], where: str) -> None:
    """Passes an adapter that names no module in two spellings.

    Two dotted paths that are one when flattened (`a.b_c`, `a_b.c`) are two modules.

    Args:
        sites: Its sites.
        where: The weights file, for the error.

    Raises:
        MalformedAdapter: Otherwise, naming both; readers would use one of them.
    """
    seen: dict[tuple[str, str], ModuleName] = {}
    for name in parse_names(sites, strict=False).values():
        other = seen.setdefault(name.module, name)
        if other is name or (other.prefix == name.prefix and not name.is_flat):
            continue
        problem = f"it names one module in two spellings, {other.site} and {name.site}"
        hint = "Readers use one of the two: save the adapter again with one spelling."
        raise MalformedAdapter(where, problem, hint)


def check_not_named_twice(sites: Iterable[str], where: str) -> None:
    """Passes an adapter that names no module by two sets of names, such as fused and split.

    Args:
        sites: Its sites.
        where: The weights file, for the error.

    Raises:
        MalformedAdapter: Otherwise, naming both; readers use one of them, or fail.
    """
    names = [name for name in map(parse_name, sites) if name.component.startswith("denoiser")]
    for architecture in ARCHITECTURES:
        if both := _both(names, architecture):
            problem = f"it names one module in two ways, {both[0]} and {both[1]}"
            hint = "Readers use one of the two: save the adapter again with one of them."
            raise MalformedAdapter(where, problem, hint)


def _both(names: Iterable[ModuleName], architecture: Architecture) -> tuple[str, str] | None:
    found: dict[tuple[str, str], str] = {}
    twice: tuple[str, str] | None = None
    for name in names:
        reading = architecture.read(name.path)
        if reading is None:
            return None  # it is another model's
        for part in (
            range(len(reading.row.diffusers)) if reading.side == "original" else [reading.part]
        ):
            key = (name.component, reading.path("diffusers", part))
            other = found.setdefault(key, name.site)
            if other != name.site:
                twice = twice or (other, name.site)
    return twice
