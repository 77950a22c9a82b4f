"""Which adapters of a zoo an entry of a library merges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lego_ray.catalog.ids import ids_that_begin, listed
from lego_ray.errors import NoAdaptersFound
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.weights import means, nearest_adapter


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


def without(adapters: Iterable[AdapterRecord], patterns: Collection[str]) -> list[AdapterRecord]:
    """The adapters that no name, glob pattern or URI means.

    Args:
        adapters: In any order, which is kept.
        patterns: Names, glob patterns or URIs; see `means`.
    """
    return [a for a in adapters if not any(means(pattern, a.uri) for pattern in patterns)]
