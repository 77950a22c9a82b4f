"""Which adapters of a zoo an entry of a library merges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lego_ray.catalog.ids import ids_that_begin, listed, one_id
from lego_ray.errors import NoAdaptersFound
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.weights import means, nearest_adapter

EXCLUDE = "--exclude"


def adapters_named(inventory: Inventory, names: Sequence[str], entry: str) -> list[AdapterRecord]:
    """The adapters that some names mean, in the inventory's order.

    Args:
        inventory: The zoo.
        names: Names, glob patterns and URIs, as `--weight` takes them, or first digits of adapter_ids,
            six or more; empty for all adapters.
        entry: The entry's name, for errors.

    Raises:
        NoAdaptersFound: If a name means no adapter, not even a refused one; or digits mean several.
    """
    if not names:
        return list(inventory.adapters)
    refused = [r.uri for r in inventory.refused]
    taken: set[str] = set()
    for name in names:
        found = {a.uri for a in inventory.adapters if means(name, a.uri)}
        if not found:
            found = _of_id(inventory, name, entry)
        if not found and not any(means(name, uri) for uri in refused):
            hint = nearest_adapter(name, (a.uri for a in inventory.adapters))
            raise NoAdaptersFound(f"merge {entry}", f"no adapter is called {name}", hint)
        taken |= found
    return [a for a in inventory.adapters if a.uri in taken]


def _of_id(inventory: Inventory, digits: str, entry: str) -> set[str]:
    """URIs of the adapter whose id begins so, wherever copies of it lie."""
    ids = ids_that_begin(digits, (a.adapter_id for a in inventory.adapters))
    if len(ids) > 1:
        uris = [next(a.uri for a in inventory.adapters if a.adapter_id == i) for i in ids]
        raise NoAdaptersFound(
            f"merge {entry}",
            f"{len(ids)} adapters fit {digits}: {listed(ids, uris)}",
            "Give more digits of the adapter_id.",
        )
    return {a.uri for a in inventory.adapters if a.adapter_id in ids}


def without(adapters: Sequence[AdapterRecord], patterns: Collection[str]) -> list[AdapterRecord]:
    """The adapters that no name, glob pattern, URI or id means.

    Args:
        adapters: In any order, which is kept.
        patterns: Names, glob patterns or URIs, see `means`; or first digits of adapter_ids, six or more.

    Raises:
        InvalidOption: If digits mean several adapters.
    """
    named = [p for p in patterns if any(means(p, a.uri) for a in adapters)]
    ids = of_ids(adapters, [p for p in patterns if p not in named])
    return [
        a
        for a in adapters
        if a.adapter_id not in ids.values() and not any(means(name, a.uri) for name in named)
    ]


def of_ids(adapters: Iterable[AdapterRecord], patterns: Iterable[str]) -> dict[str, str]:
    """The adapter_ids that begin with some patterns of `--exclude`, by pattern; others are left out.

    Args:
        adapters: The adapters.
        patterns: Patterns that mean no adapter by its name.

    Raises:
        InvalidOption: If digits mean several adapters.
    """
    names = {adapter.adapter_id: adapter.uri for adapter in adapters}
    found = ((pattern, one_id(pattern, names, EXCLUDE)) for pattern in patterns)
    return {pattern: adapter_id for pattern, adapter_id in found if adapter_id is not None}
