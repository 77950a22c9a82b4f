"""How much each adapter counts: the weights a user gave by name, and the adapters they mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from lego_ray.catalog.ids import ids_that_begin, one_id
from lego_ray.errors import InvalidOption
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.inventory import Inventory

FLAG = "--weight"
# Of adapters that are single files, which people call by their names without it.
FILE_ENDING = ".safetensors"


def checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Checks weights as they were given, before any adapter is known.

    Args:
        weights: Factor on an adapter's update, by the adapter's name, a glob pattern or its URI.

    Raises:
        InvalidOption: If it is not a mapping of names to finite numbers.
    """
    if not isinstance(weights, Mapping):
        raise InvalidOption(FLAG, f"{weights!r} is not a mapping of names to numbers")
    for name, weight in weights.items():
        if not isinstance(name, str) or not name:
            raise InvalidOption(FLAG, f"{name!r} is not a name of an adapter")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise InvalidOption(FLAG, f"{name} has {weight!r}, which is not a finite number")
    return {name: float(weight) for name, weight in weights.items()}


def weights_of(inventory: Inventory, weights: Mapping[str, float]) -> tuple[float, ...]:
    """The weight of each adapter of an inventory, in its order; 1 where none was given.

    A name means the adapters whose URI it is, or whose last parts it is, as it stands or as a glob
    pattern of as many parts: `french`, `customers/*`, `s3://zoo/*`; or the adapters whose id begins
    with it: six digits or more, which no adapter is called. A whole URI or an id counts before a name
    as it stands, and that before a pattern, so that `*=0.5` and `french=2` go together in any order.

    Args:
        inventory: Adapters, taken and refused.
        weights: As `checked_weights` gives them.

    Raises:
        InvalidOption: If a name means no adapter, not even a refused one, or two that count alike give
            one adapter different weights.
    """
    for name in weights:
        known = any(means(name, uri) for uri in _uris(inventory))
        if not known and not ids_that_begin(name, _ids(inventory)):
            hint = nearest_adapter(name, _uris(inventory))
            raise InvalidOption(FLAG, f"no adapter is called {name}", hint)
    by_place = by_places(weights, inventory.adapters)
    return tuple(weight_of(adapter.uri, by_place) for adapter in inventory.adapters)


def by_places(
    weights: Mapping[str, float], adapters: Sequence[AdapterRecord]
) -> Mapping[str, float]:
    """The weights, with the URIs of adapters in the place of the first digits of their ids.

    Digits that are also the name of an adapter mean that one.

    Args:
        weights: As they were given.
        adapters: The adapters.

    Raises:
        InvalidOption: If digits mean several adapters, or one that has another weight by its URI.
    """
    names = {adapter.adapter_id: adapter.uri for adapter in adapters}
    found: dict[str, float] = {}
    for name, weight in weights.items():
        is_name = any(means(name, adapter.uri) for adapter in adapters)
        adapter_id = None if is_name else one_id(name, names, FLAG)
        places = [a.uri for a in adapters if a.adapter_id == adapter_id] or [name]
        for place in places:
            if found.setdefault(place, weights.get(place, weight)) != weight:
                raise InvalidOption(
                    FLAG,
                    f"{place} has weight {found[place]:g}, and {weight:g} by {name}",
                    "Give the weight of each adapter once.",
                )
    return found


def without_zeros(
    inventory: Inventory, weights: tuple[float, ...]
) -> tuple[Inventory, tuple[float, ...], list[AdapterRecord]]:
    """Leaves out adapters of weight 0, which would be read for nothing.

    To a method that clusters, rows of zeros would be points like others; left out, the merge is the
    one of the other adapters.

    Args:
        inventory: The inventory.
        weights: One an adapter, in its order.

    Returns:
        The inventory and weights of the rest, and the adapters left out.

    Raises:
        InvalidOption: If all adapters have weight 0.
    """
    pairs = list(zip(inventory.adapters, weights, strict=True))
    kept = [(adapter, weight) for adapter, weight in pairs if weight != 0]
    if pairs and not kept:
        raise InvalidOption(FLAG, "every adapter has weight 0", "Give one of them another weight.")
    return (
        replace(
            inventory,
            adapters=tuple(adapter for adapter, _ in kept),
            zero_weight=inventory.zero_weight + len(pairs) - len(kept),
        ),
        tuple(weight for _, weight in kept),
        [adapter for adapter, weight in pairs if weight == 0],
    )


def weight_of(uri: str, weights: Mapping[str, float]) -> float:
    """The weight of the adapter at a URI; see `weights_of`."""
    whole = {name: w for name, w in weights.items() if name == uri}
    plain = whole or {name: w for name, w in weights.items() if name in names_of(uri)}
    found = plain or {name: w for name, w in weights.items() if means(name, uri)}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}={weight:g}" for name, weight in sorted(found.items()))
        raise InvalidOption(
            FLAG, f"{uri} is meant by {listed}", "Give the weight of this one by its URI alone."
        )
    return next(iter(found.values()), 1.0)


def means(name: str, uri: str) -> bool:
    """Whether a name, glob pattern or URI means the adapter at a URI; see `weights_of`."""
    return any(own == name or _fits(own, name) for own in names_of(uri))


def _fits(own: str, pattern: str) -> bool:
    """A pattern for whole URIs may pass over slashes; others would reach into folders above."""
    whole = pattern.startswith("/") or "://" in pattern
    return (whole or own.count("/") == pattern.count("/")) and fnmatchcase(own, pattern)


def names_of(uri: str) -> Iterator[str]:
    """Last parts of a URI, the whole last; also without a file's ending or a repository's commit.

    Args:
        uri: The adapter's.
    """
    parts = uri.split("/")
    for start in range(len(parts) - 1, -1, -1):
        yield "/".join(parts[start:])
    if uri.endswith(FILE_ENDING):
        yield from names_of(uri.removesuffix(FILE_ENDING))
    if uri.startswith("hf://") and "@" in uri:
        repo, _, rest = uri.partition("@")
        folder = rest.partition("/")[2]
        yield from names_of(f"{repo}/{folder}" if folder else repo)


def _ids(inventory: Inventory) -> Iterator[str]:
    yield from (adapter.adapter_id for adapter in inventory.adapters)
    yield from (refused.adapter_id for refused in inventory.refused if refused.adapter_id)


def _uris(inventory: Inventory) -> Iterator[str]:
    yield from (adapter.uri for adapter in inventory.adapters)
    yield from (refused.uri for refused in inventory.refused)


def nearest_adapter(name: str, uris: Iterable[str]) -> str:
    """What to do about a name that means none of some adapters: the nearest name, or those there are.

    Args:
        name: What was asked for.
        uris: The adapters there are.
    """
    names = sorted({uri.rstrip("/").rsplit("/", 1)[-1] for uri in uris})
    near = get_close_matches(name, names, 1) or get_close_matches(name.rsplit("/", 1)[-1], names, 1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(names[:10])}."
