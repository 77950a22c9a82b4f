"""What went in, and what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.reporting.facts import Facts

Counts = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The adapters of a merge, counted.

    Attributes:
        adapters: Name, ranks and manifest entry of each.
        ranks: Adapters by their ranks, the lowest first.
        weighted: How many have a weight other than 1.
        licenses: Adapters by license, the most common first.
        reasons: Refused adapters by the kind of reason, the most common first.
        notes: What was left out or assumed in reading an adapter, with its name.
    """

    adapters: Sequence[tuple[str, str, dict[str, Any]]]
    ranks: Counts
    weighted: int
    licenses: Counts
    reasons: Counts
    notes: Sequence[tuple[str, str]]


def inputs(facts: Facts) -> Inputs:
    """Counts the adapters that were taken and left out."""
    sources, refused = facts.manifest["sources"], facts.manifest.get("refused", [])
    ranks = [span(s.get("rank_min", 0), s.get("rank_max", 0)) for s in sources]
    return Inputs(
        list(zip(facts.names, ranks, sources, strict=True)),
        sorted(Counter(ranks).items(), key=lambda pair: (int(pair[0].split()[0]), pair[0])),
        sum(source.get("weight", 1) != 1 for source in sources),
        Counter(source.get("license") or "none named" for source in sources).most_common(),
        Counter(each["reason"].split(":", 1)[0] for each in refused).most_common(),
        [
            (name, note)
            for name, source in zip(facts.names, sources, strict=True)
            for note in source.get("notes", [])
        ],
    )


def span(low: int, high: int) -> str:
    """`4`, or `4 to 8`."""
    return str(low) if low == high else f"{low} to {high}"


def merged_rank(facts: Facts) -> str:
    """The rank of the merged adapter, in words."""
    recipe = facts.manifest["recipe"]
    if ranks := recipe.get("ranks"):
        return span(min(ranks.values()), max(ranks.values()))
    return "as chosen" if recipe.get("rank") is None else str(recipe["rank"])
