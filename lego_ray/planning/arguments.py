"""What the Python calls take, read: places, names, amounts of memory, a merge to make."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from lego_ray.errors import InvalidOption, ReadOnlyStore
from lego_ray.methods.presets import how_to_merge
from lego_ray.planning.rank_options import asked_rank
from lego_ray.planning.recipe import Recipe
from lego_ray.storage.uri import HubUri, parse_uri

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
            "--memory-budget", f"{text!r} is no amount of memory", "Write it as 4GiB or 512MiB."
        )
    return amount


def name_of(name: str | None, output: str | None) -> str:
    """The name given, or the last part of the output.

    Args:
        name: The name, or None.
        output: Where the merge goes, or None.
    """
    if name is not None:
        return name
    return output.rstrip("/").rsplit("/", 1)[-1] if output else "merge"


def output_place(output: Uri) -> str:
    """Where a merge is to be written, normalised.

    Raises:
        ReadOnlyStore: If it is on the Hub, where a run could keep nothing beside it.
        UnsupportedUri: If it is no URI.
    """
    parsed = parse_uri(output)
    if isinstance(parsed, HubUri):
        raise ReadOnlyStore(
            str(parsed),
            "a merge is written to a directory or to S3, which keep its finished tasks until it is "
            "published",
            f"Give such an --output, then `lego-ray publish OUTPUT --to {parsed}`.",
        )
    return str(parsed)


def places(given: Uri | Sequence[Uri]) -> list[str]:
    """The places given, one or several, as text."""
    one = isinstance(given, str | PathLike)
    return [fspath(given)] if one else [fspath(source) for source in given]  # type: ignore[union-attr,arg-type]


def recipe_of(
    output: str | None,
    *,
    name: str | None,
    rank: int | str | None,
    rank_error: float | None,
    rank_budget: int | None,
    exclude: Sequence[str],
    weights: Mapping[str, float] | None,
    preset: str | None,
    method: str | None,
    options: Mapping[str, Any],
    output_scale: float | str | None,
    **given: Any,
) -> Recipe:
    """The recipe of a call that makes one merge.

    Args:
        output: Where the merge goes, or None.
        name: Its name, or None for the last part of the output.
        rank: The rank, `auto`, or None.
        rank_error: The error that `auto` stays within, or None.
        rank_budget: The rank whose parameters are spread over the sites, or None.
        exclude: Glob patterns of adapters to leave out.
        weights: Factors on the adapters' updates, or None.
        preset: The preset, or None.
        method: The method, or None for the preset's.
        options: The method's options.
        output_scale: Factor on the merged update, a rule, or None for the preset's.
        given: Fields of the recipe as they stand.

    Raises:
        InvalidOption: If a value is out of its range, or two contradict each other.
    """
    return Recipe(
        name=name_of(name, output),
        **asked_rank(rank, rank_error, rank_budget),
        exclude=tuple(exclude),
        weights={} if weights is None else weights,
        **how_to_merge(preset, method, options, output_scale),
        **given,
    )
