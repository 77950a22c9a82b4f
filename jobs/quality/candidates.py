"""The merges compared: a method with its options each, under the name it has in the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """One way to merge; `rank` is that of the zoo unless given, as the exact sum needs."""

    label: str
    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    rank: int | None = None


PAPER = Candidate("lego, paper", "lego", {"preset": "paper"})
ADAPTIVE = Candidate("adaptive", "svd", {"preset": "adaptive"})
LEGO_ADAPTIVE = Candidate("lego, adaptive", "lego", {"preset": "lego-adaptive"})
UNSCALED: Mapping[str, object] = {
    "output_scale": 1
}  # tuned candidates come at their methods' lengths
CANDIDATES = (
    PAPER,
    Candidate(
        "lego, balance, align signs", "lego", {**UNSCALED, "balance": True, "align_signs": True}
    ),
    Candidate(
        "lego, SVD basis, align signs", "lego", {**UNSCALED, "basis": "svd", "align_signs": True}
    ),
    Candidate("lego, rank-one", "lego", {**UNSCALED, "distance": "rank-one"}),
    Candidate(
        "lego, SVD basis, rank-one",
        "lego",
        {**UNSCALED, "distance": "rank-one", "basis": "svd"},
    ),
    Candidate("linear", "linear"),
    Candidate("svd", "svd"),
    Candidate("iso", "iso"),
    Candidate("tsv", "tsv"),
    Candidate("ties", "ties"),
    Candidate("dare_linear", "dare_linear"),
    Candidate("dare_ties", "dare_ties"),
    Candidate("magnitude_prune", "magnitude_prune"),
    Candidate("knots, TIES", "knots"),
    Candidate("core_space, TIES", "core_space"),
    Candidate("ctm, sum", "ctm", {"inner": "sum"}),
    Candidate("ctm, TIES", "ctm", {"inner": "ties"}),
    Candidate("ctm, DARE-TIES", "ctm", {"inner": "dare_ties"}),
    Candidate("sum, at full rank (concat)", "concat", rank=64),
)

# Those of the sections that are not about every method.
SHORT_LIST = tuple(
    c
    for c in CANDIDATES
    if c.label
    in ("lego, paper", "lego, SVD basis, rank-one", "svd", "core_space, TIES", "knots, TIES")
)


def _presets(
    label: str, method: str, options: Mapping[str, object], factors: tuple[float, ...]
) -> list[Candidate]:
    return [
        Candidate(
            f"{label}, {c:g} x source-norm",
            method,
            {**options, "output_scale": f"source-norm*{c:g}"},
        )
        for c in factors
    ]


# What needs no data: the scale is a rule, from the sources alone.
AS_THEY_COME = (
    PAPER,
    ADAPTIVE,
    LEGO_ADAPTIVE,
    *_presets("lego", "lego", {}, (1, 1.4, 2)),
    *_presets(
        "lego, SVD basis, rank-one", "lego", {"distance": "rank-one", "basis": "svd"}, (1, 1.4, 2)
    ),
    *_presets("svd", "svd", {}, (1, 1.4, 2)),
    *_presets("iso", "iso", {}, (1, 1.4, 2)),
    *_presets("core_space, TIES", "core_space", {}, (1, 1.4, 2)),
)

# Those compared on SmolLM2 too, where evaluations take long.
AS_THEY_COME_THERE = tuple(
    c
    for c in AS_THEY_COME
    if c.label
    in (
        PAPER.label,
        ADAPTIVE.label,
        LEGO_ADAPTIVE.label,
        "lego, 1 x source-norm",
        "lego, SVD basis, rank-one, 1 x source-norm",
        "svd, 1 x source-norm",
        "iso, 1 x source-norm",
        "iso, 2 x source-norm",
        "core_space, TIES, 1 x source-norm",
    )
)

# Of one adapter there is nothing to agree on: what is left of a method is how it drops ranks.
PRUNED = (
    PAPER,
    *_presets("lego", "lego", {}, (1,)),
    *_presets("lego, SVD basis, rank-one", "lego", {"distance": "rank-one", "basis": "svd"}, (1,)),
    *_presets("svd", "svd", {}, (1,)),
)
