"""What the Python calls take, read: places, names, amounts of memory, a merge to make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from lego_ray.errors import InvalidOption, ReadOnlyStore
from lego_ray.methods.names import MethodOptions
from lego_ray.methods.presets import how_to_merge
from lego_ray.options import keywords_of, picked
from lego_ray.planning.options import RecipeOptions, ResultOptions, SourceOptions
from lego_ray.planning.rank_options import asked_rank, asked_ranks, name_at_rank
from lego_ray.planning.scan_limits import ScanLimits, checked_limits
from lego_ray.storage.places import HubPlace, Place
from lego_ray.storage.uri import parse_uri

if TYPE_CHECKING:
    from lego_ray.planning.recipe import Recipe

# What a call is given; it makes a `Place` of it, once.
Uri = str | PathLike[str]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: int | str) -> int:
    """Reads an amount of memory: a number of bytes, or one with K, M, G or T and B or iB after it.

    Raises:
        InvalidOption: If it is neither, or not above zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    amount = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if amount < 1:
        raise InvalidOption(
            "--memory-budget", f"{text!r} is not a valid memory size", "Write it as 4GiB or 512MiB."
        )
    return amount


def name_of(name: str | None, output: Place | None) -> str:
    """The name given, or the last part of the output.

    Args:
        name: The name, or None.
        output: Where the merge goes, or None.
    """
    if name is not None:
        return name
    return str(output).rstrip("/").rsplit("/", 1)[-1] if output else "merge"


def output_place(output: Uri) -> Place:
    """Where a merge is to be written.

    Raises:
        ReadOnlyStore: If it is on the Hub, where a run could keep nothing beside it.
        UnsupportedUri: If it is no URI.
    """
    return writable(parse_uri(output))


def writable(place: Place) -> Place:
    """A place where a merge can be written.

    Raises:
        ReadOnlyStore: If it is on the Hub or on a web site, where a run could keep nothing beside it.
    """
    if place.is_read_only:
        then = (
            f", then `lego-ray publish OUTPUT --to {place}`" if isinstance(place, HubPlace) else ""
        )
        raise ReadOnlyStore(
            str(place),
            "a merge is written to a directory or to a bucket, which keep its finished tasks until it "
            "is published",
            f"Give such an --output{then}.",
        )
    return place


def place_or_none(given: Uri | None) -> Place | None:
    """The place given, if one is.

    Raises:
        UnsupportedUri: If it is no URI.
    """
    return None if given is None else parse_uri(given)


def sources_given(given: Uri | Sequence[Uri]) -> list[str]:
    """The sources given, one or several, as text: a scan reads what they stand for."""
    one = isinstance(given, str | PathLike)
    return [fspath(given)] if one else [fspath(source) for source in given]  # type: ignore[union-attr,arg-type]


def recipe_among(sources: Sequence[str]) -> str | None:
    """The recipe file that is given in the place of sources, or None.

    Args:
        sources: What was given as sources, as text.

    Raises:
        InvalidOption: If one is given beside sources.
    """
    found = next((each for each in sources if each.endswith((".yaml", ".yml"))), None)
    if found is not None and len(sources) > 1:
        raise InvalidOption(
            "SOURCE",
            f"{found} is a recipe file, which names the sources itself",
            "Give the recipe file alone, or sources alone.",
        )
    return found


def checkpoints_of(options: SourceOptions) -> str:
    """Which checkpoints of a training run are taken: `last` or `all`.

    Args:
        options: What was given.

    Raises:
        InvalidOption: If it is neither.
    """
    return checked_checkpoints(picked(SourceOptions, options)["checkpoints"])


def limits_of(options: SourceOptions) -> ScanLimits:
    """The most that a scan of the sources may list and read.

    Args:
        options: What was given.

    Raises:
        InvalidOption: If it is not a limit that there is.
    """
    return checked_limits(picked(SourceOptions, options)["scan_limits"])


def checked_checkpoints(value: str) -> str:
    """Passes `last` or `all`.

    Raises:
        InvalidOption: If it is neither.
    """
    keywords_of(SourceOptions)["checkpoints"].check(value)
    return value


def recipe_of(output: Place | None, options: RecipeOptions) -> Recipe:
    """The recipe of a call that makes one merge.

    Args:
        output: Where the merge goes, or None.
        options: What was given of it; others too, which are none of the recipe's.

    Raises:
        InvalidOption: If a value is out of its range, or two contradict each other.
    """
    # Imports torch, which a scan or an inspection needs nothing of.
    from lego_ray.planning.recipe import Recipe

    asked = picked(ResultOptions, options)
    sources = picked(SourceOptions, options)
    ranks = asked_rank(*(asked.pop(name) for name in ("rank", "rank_error", "rank_budget")))
    how = how_to_merge(
        asked.pop("preset"),
        asked.pop("method"),
        {name: value for name, value in options.items() if name in keywords_of(MethodOptions)},
        asked.pop("output_scale"),
        asked.pop("spectrum"),
        updatable=asked["updatable"],
    )
    asked["base"] = str(parse_uri(asked["base"])) if asked["base"] else ""
    mappings: dict[str, Any] = {n: asked.pop(n) or {} for n in ("weights", "site_scales")}
    return Recipe(
        **{**asked, **mappings, "name": name_of(asked["name"], output)},
        **ranks,
        **how,
        exclude=tuple(sources["exclude"]),
        full_weights=sources["full_weights"],
    )


def recipes_at_ranks(
    output: Place | None, ranks: Sequence[int], options: RecipeOptions
) -> list[tuple[int, Recipe]]:
    """The recipes of a call that makes a merge at each of several ranks, in their order.

    Args:
        output: What the merges go below, or None.
        ranks: The ranks.
        options: As for `recipe_of`, without a rank.

    Raises:
        InvalidOption: If a value is out of its range, or two contradict each other.
    """
    found = asked_ranks(ranks, options)
    name = name_of(options.get("name"), output)
    return [
        (rank, recipe_of(output, {**options, "rank": rank, "name": name_at_rank(name, rank)}))
        for rank in found
    ]
