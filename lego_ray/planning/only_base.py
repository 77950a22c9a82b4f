"""The adapters of one base model out of a zoo of several: `--only-base`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from lego_ray.errors import NoAdaptersFound
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.base_models import base_of, listed_bases
from lego_ray.planning.inventory import Inventory

FLAG = "--only-base"


def is_of_base(base_model: str, name: str) -> bool:
    """Whether an adapter's base model is meant: by its name in any case, or by a glob pattern.

    Args:
        base_model: What the adapter names; empty if it names none.
        name: What was asked for.
    """
    return fnmatchcase(base_model.lower(), name.lower()) or base_model.lower() == name.lower()


def _is_meant(adapter: AdapterRecord, name: str) -> bool:
    """As `is_of_base`; a name may have the revision after an @."""
    return any(is_of_base(each, name) for each in (adapter.base_model, base_of(adapter)))


def only_of_base(inventory: Inventory, name: str) -> Inventory:
    """The inventory with the adapters of a base model alone, and a warning of those left out.

    Args:
        inventory: The inventory.
        name: Name or glob pattern of the base model, or of NAME@REVISION; empty for all.

    Raises:
        NoAdaptersFound: If no adapter names it.
    """
    if not name or not inventory.adapters:
        return inventory
    taken = tuple(a for a in inventory.adapters if _is_meant(a, name))
    others = Counter(base_of(a) for a in inventory.adapters if not _is_meant(a, name))
    if not others:
        return inventory
    if not taken:
        raise NoAdaptersFound(
            f"{FLAG} {name}",
            f"no adapter names this base model; {listed_bases(others)}",
            _nearest(name, others),
        )
    n = sum(others.values())
    said = f"{FLAG} {name} left out {n} adapter{'s' * (n > 1)}: {listed_bases(others)}"
    return replace(
        inventory,
        adapters=taken,
        warnings=(*inventory.warnings, said),
        other_base=inventory.other_base + n,
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, [each for each in names if each], 1)
    return f"Did you mean {near[0]}?" if near else "`lego-ray scan` lists what they name."
