"""What no flag should mean: differences on the fresh zoos, and the rule that chooses by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.quality.calibrated import NATS
from jobs.quality.defaults import ADAPTIVE, CANDIDATES, LEGO_ADAPTIVE, PAPER, Cell
from jobs.quality.fresh_zoos import OVER_TRAINED
from jobs.quality.scores import Rows, Score, score
from jobs.quality.zoos import Zoo

Find = Callable[[Cell], Rows | None]


@dataclass(frozen=True)
class Difference:
    """A candidate less another, on the zoos of one base that have one number of adapters.

    Attributes:
        size: T; 0 for the mean over all of them.
        zoos: How many zoos were measured.
        score: The mean over tasks, and its standard error over the rows, paired.
    """

    size: int
    zoos: int
    score: Score


def pooled(zoos: Sequence[Rows]) -> Rows:
    """Each task's rows, averaged over the zoos that have the task."""
    tasks = dict.fromkeys(task for rows in zoos for task in rows)
    return {
        task: np.mean([rows[task] for rows in zoos if task in rows], axis=0).tolist()
        for task in tasks
    }


def of_kind(values: Rows, nats: bool) -> Rows:
    """The rows that are log-probabilities, or those that are not."""
    return {task: rows for task, rows in values.items() if task.startswith(NATS) == nats}


def differences(
    zoos: Sequence[Zoo], find: Find, one: str, other: str, nats: bool = False
) -> list[Difference]:
    """One candidate less another at scale 1 on test rows, by T, and their mean.

    Zoos of which one of the two is not measured are left out, as are over-trained ones.

    Args:
        zoos: Those of one base.
        find: The values of a cell; None if it was not measured.
        one: Label of a candidate.
        other: Label of that it is compared to.
        nats: Whether log-probabilities are compared, where the base has both.
    """
    known = {c.label: c for c in CANDIDATES}
    pairs: dict[int, list[tuple[Rows, Rows]]] = {}
    for zoo in zoos:
        left, right = (find(Cell(zoo, known[label], 1.0, "test")) for label in (one, other))
        if zoo.kind != OVER_TRAINED and left is not None and right is not None:
            pair = (of_kind(left, nats), of_kind(right, nats))
            pairs.setdefault(len(zoo.adapters), []).append(pair)
    found = [_difference(size, pairs[size]) for size in sorted(pairs)]
    everything = [pair for size in sorted(pairs) for pair in pairs[size]]
    return [*found, _difference(0, everything)] if everything else []


def _difference(size: int, pairs: Sequence[tuple[Rows, Rows]]) -> Difference:
    one, other = (pooled([pair[i] for pair in pairs]) for i in (0, 1))
    return Difference(size, len(pairs), score([one], [other]))


@dataclass(frozen=True)
class Decision:
    """What no flag should mean by what was measured, and why."""

    preset: str
    reasons: tuple[str, ...]


ByBase = Mapping[str, Sequence[Difference]]


def not_measured(zoos: Sequence[Zoo], find: Find) -> list[str]:
    """Names of the zoos that count and were not measured with each of the presets."""
    presets = (PAPER, LEGO_ADAPTIVE, ADAPTIVE)
    return [
        zoo.name
        for zoo in zoos
        if zoo.kind != OVER_TRAINED
        and any(find(Cell(zoo, preset, 1.0, "test")) is None for preset in presets)
    ]


def decide(
    lego_adaptive: ByBase, adaptive: ByBase, between: ByBase, missing: Sequence[str] = ()
) -> Decision:
    """Applies the rule that was fixed before these zoos were made.

    `lego-adaptive` if at every T of both bases it is at or above `paper` within its error, and above it
    on the mean; `adaptive` if that holds of it too and on the mean of both bases it is above
    `lego-adaptive` by more than its error; else `paper`, also while a zoo is not measured.

    Args:
        lego_adaptive: By base, `lego-adaptive` less `paper`.
        adaptive: By base, `adaptive` less `paper`.
        between: By base, `adaptive` less `lego-adaptive`.
        missing: What was not measured.
    """
    if missing:
        return Decision(PAPER.label, (f"not measured yet: {', '.join(missing)}",))
    faults = _below(LEGO_ADAPTIVE.label, lego_adaptive)
    if faults:
        return Decision(PAPER.label, tuple(faults))
    ahead = [
        base
        for base, found in between.items()
        if any(d.size == 0 and d.score.mean > d.score.error for d in found)
    ]
    against = _below(ADAPTIVE.label, adaptive)
    if len(ahead) == len(between) and not against:
        reason = (
            f"{ADAPTIVE.label} is above {LEGO_ADAPTIVE.label} by more than its error on all bases"
        )
        return Decision(ADAPTIVE.label, (reason,))
    held = f"{LEGO_ADAPTIVE.label} is at or above {PAPER.label} at every T, and above on the mean"
    told = (
        f"{ADAPTIVE.label} is above it by more than its error on: {', '.join(ahead) or 'no base'}"
    )
    return Decision(LEGO_ADAPTIVE.label, (held, told, *against))


def _below(label: str, found: ByBase) -> list[str]:
    """Where a candidate is below `paper` by more than its error, or not above it on the mean."""
    faults = []
    for base, by_size in found.items():
        for d in by_size:
            if d.size == 0 and d.score.mean <= 0:
                faults.append(f"{label} is not above {PAPER.label} on the mean of {base}")
            elif d.size and d.score.mean < -d.score.error:
                faults.append(f"{label} is below {PAPER.label} on {base} at T = {d.size}")
    return faults
