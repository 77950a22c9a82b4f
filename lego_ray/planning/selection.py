"""Which adapters of a zoo an entry of a library merges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lego_ray.errors import NoAdaptersFound
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.weights import means, nearest_adapter


def adapters_named(inventory: Inventory, names: Sequence[str], entry: str) -> list[AdapterRecord]:
    """The adapters that some names mean, as `--weight` takes them, in the inventory's order.

    Args:
        inventory: The zoo.
        names: Names, glob patterns and URIs; empty for all adapters.
        entry: The entry's name, for errors.

    Raises:
        NoAdaptersFound: If a name means no adapter, not even a refused one.
    """
    if not names:
        return list(inventory.adapters)
    refused = [r.uri for r in inventory.refused]
    taken: set[str] = set()
    for name in names:
        found = {a.uri for a in inventory.adapters if means(name, a.uri)}
        if not found and not any(means(name, uri) for uri in refused):
            hint = nearest_adapter(name, (a.uri for a in inventory.adapters))
            raise NoAdaptersFound(f"merge {entry}", f"no adapter is called {name}", hint)
        taken |= found
    return [a for a in inventory.adapters if a.uri in taken]


def without(adapters: Iterable[AdapterRecord], patterns: Collection[str]) -> list[AdapterRecord]:
    """The adapters that no name, glob pattern or URI means.

    Args:
        adapters: In any order, which is kept.
        patterns: Names, glob patterns or URIs; see `means`.
    """
    return [a for a in adapters if not any(means(pattern, a.uri) for pattern in patterns)]
