"""What people choose a method by. Loads no torch; tests hold the facts against the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALWAYS: Mapping[str, Any] = {}
_ALL_KEPT: Mapping[str, Any] = {"density": 1.0}


# An MSU goes to one merged rank; each merged rank is one MSU; it has signed shares of several; or of
# what the method kept of them.
CLUSTERS, SINGLE, SHARES = "clusters", "each rank is one MSU", "shares"
SHARES_OF_KEPT = "shares of what is kept"


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one method.

    Attributes:
        use: When to use it.
        cost: What it costs, apart from reading.
        lineage: How the table `msus` of the catalog says which MSUs each merged rank is made of.
        lone: Options with which one adapter alone comes back unchanged; empty for any, None for none.
        lone_said: What becomes of one adapter alone otherwise; empty where that never happens.
        exact: Whether the merge is the exact sum of the updates where k is the sum of the ranks.
        spread: When a module that does not fit one worker is spread over several: yes, no or a
            condition.
    """

    use: str
    cost: str
    lineage: str = SHARES
    lone: Mapping[str, Any] | None = field(default_factory=dict)
    lone_said: str = ""
    exact: bool = False
    spread: str = "no"

    @property
    def alone(self) -> str:
        """Whether one adapter alone stays the same, in words."""
        if self.lone is None:
            return f"no: {self.lone_said}"
        if not self.lone:
            return "yes"
        said = ", ".join(f"{name}={value:g}" for name, value in self.lone.items())
        return f"with {said}"

    @property
    def laws(self) -> tuple[str, ...]:
        """The laws that it holds beside those of every method, as short words; see `LAWS`."""
        lone = () if self.lone is None else ("one" if not self.lone else "one*",)
        return (*lone, *(("sum",) if self.exact else ()))


LAWS: Mapping[str, str] = {
    "one": "one adapter alone, at its own rank, comes back",
    "one*": "the same with density=1",
    "sum": "at the sum of all ranks, the merge is the exact sum of the updates",
}
"""What the short words of `Facts.laws` mean. The order of the adapters changes no bit of any method."""


_PASSES = "passes over the factors"
_DECOMPOSED = "decompositions of all factors"

FACTS: Mapping[str, Facts] = {
    "lego": Facts(
        "LoRA-LEGO, with a record of which rank went where; with --updatable, later versions that read "
        "only new adapters",
        "k-means, ten restarts",
        lineage=CLUSTERS,
        spread="yes, except with distance=rank-one",
    ),
    "concat": Facts("the exact sum, at any size; PEFT's cat", "a copy", lineage=SINGLE, exact=True),
    "linear": Facts("the result of PEFT's linear", _PASSES, SHARES_OF_KEPT, spread="yes"),
    "svd": Facts(
        "the nearest adapter to the sum, or one adapter pruned; PEFT's svd",
        "one decomposition of the factors",
        exact=True,
        spread="from about half as many MSUs as the longer side is long",
    ),
    "ties": Facts(
        "the result of PEFT's ties", _PASSES, SHARES_OF_KEPT, lone=_ALL_KEPT, spread="yes"
    ),
    "dare_linear": Facts(
        "the result of PEFT's dare_linear", _PASSES, SHARES_OF_KEPT, lone=_ALL_KEPT, spread="yes"
    ),
    "dare_ties": Facts(
        "the result of PEFT's dare_ties", _PASSES, SHARES_OF_KEPT, lone=_ALL_KEPT, spread="yes"
    ),
    "magnitude_prune": Facts(
        "the result of PEFT's magnitude_prune",
        _PASSES,
        SHARES_OF_KEPT,
        lone=_ALL_KEPT,
        spread="yes",
    ),
    "tsv": Facts("to compare with TSV-Merge", "one decomposition per adapter", spread="yes"),
    "iso": Facts(
        "as much of the tasks kept as possible, as --preset iso",
        "one decomposition of the factors",
        lone=None,
        lone_said="its singular values become equal",
        spread="from about half as many MSUs as the longer side is long",
    ),
    "iso_cts": Facts(
        "to compare with Iso-CTS",
        "a decomposition per adapter of its core",
        lone=None,
        lone_said="its singular values become equal",
    ),
    "output_metric": Facts("to compare with the others", _DECOMPOSED),
    "input_metric": Facts("to compare with ACE-Merging", _DECOMPOSED),
    "swudi": Facts("to compare with SWUDI", _DECOMPOSED),
    "dc_merge": Facts(
        "to compare with DC-Merge",
        "one decomposition per adapter",
        lone=None,
        lone_said="its singular values become equal",
    ),
    "core_space": Facts(
        "as much of the tasks kept as possible, as --preset core-space",
        _DECOMPOSED,
        SHARES_OF_KEPT,
        lone=_ALL_KEPT,
    ),
    "knots": Facts("to compare with KnOTS", _DECOMPOSED, SHARES_OF_KEPT, lone=_ALL_KEPT),
    "ctm": Facts(
        "to compare with Compress-then-Merge", _DECOMPOSED, SHARES_OF_KEPT, lone=_ALL_KEPT
    ),
}
"""By method. One that is registered without an entry has no facts; a test misses it."""


def facts_of(name: str) -> Facts:
    """The facts of a method; dashes for one that has none.

    Args:
        name: Its name.
    """
    return FACTS.get(name, Facts("-", "-", "-", spread="-"))
