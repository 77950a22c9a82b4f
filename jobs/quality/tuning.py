"""Each merge's scale is found on validation rows; then it is tested once.

Scales are in units of the sources: at scale 1 the merged update is as long, over all sites, as the
sources' updates are in root mean square. So one grid serves all methods, whatever length they give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.quality.candidates import Candidate
from jobs.quality.scores import Rows, score, task_means
from jobs.quality.study import Merged, Pending, Study, tasks_of
from jobs.quality.zoos import Zoo

COARSE = (0.7, 1.4, 2.8)
STEP = math.sqrt(2)


@dataclass(frozen=True)
class Tuned:
    """A candidate whose scale was found on validation.

    Attributes:
        candidate: The merge.
        scale: In units of the sources.
        validation: The values there, by zoo.
        merged: The merges of all zoos, by name.
    """

    candidate: Candidate
    scale: float
    validation: Sequence[Rows]
    merged: dict[str, Merged]


def tune(
    study: Study,
    candidates: Sequence[Candidate],
    zoos: Sequence[Zoo],
    rank: int,
    tuned_on: Sequence[Zoo],
) -> list[Tuned]:
    """Finds each candidate's scale: the best of three, then of those half an octave beside it.

    Args:
        study: Merges and evaluates.
        candidates: The merges.
        zoos: The zoos to merge.
        rank: Rank of the merged adapters.
        tuned_on: Those of the zoos on whose validation rows the scale is chosen; one for all.
    """
    merged = {
        c.label: {z.name: study.merge(study.sources(z), c, rank) for z in zoos} for c in candidates
    }

    def begin(label: str, scale: float) -> list[Pending]:
        found = merged[label]
        return [
            study.evaluate(found[z.name], scale * found[z.name].unit, "validation", tasks_of(z))
            for z in tuned_on
        ]

    tried: dict[str, dict[float, list[Pending]]] = {
        c.label: {scale: begin(c.label, scale) for scale in COARSE} for c in candidates
    }
    for label, scales in tried.items():
        best = _best(scales)
        scales |= {scale: begin(label, scale) for scale in (best / STEP, best * STEP)}
    result = []
    for candidate in candidates:
        scales = tried[candidate.label]
        scale = _best(scales)
        values = [pending.result() for pending in scales[scale]]
        result.append(Tuned(candidate, scale, values, merged[candidate.label]))
    return result


def _best(scales: dict[float, list[Pending]]) -> float:
    """The scale of the highest mean; of equals the smallest."""
    return max(sorted(scales), key=lambda s: score([p.result() for p in scales[s]]).mean)


def measured(
    study: Study, found: Sequence[Tuned], zoos: Sequence[Zoo], against: str | None = None
) -> list[dict[str, Any]]:
    """Tests each once at its scale, as records for the JSON file.

    Args:
        study: Merges and evaluates.
        found: The candidates with their scales.
        zoos: The zoos to test on.
        against: Label of the candidate the others are compared to.
    """
    pending = {
        t.candidate.label: [
            study.evaluate(t.merged[z.name], t.scale * t.merged[z.name].unit, "test", tasks_of(z))
            for z in zoos
        ]
        for t in found
    }
    values = {label: [p.result() for p in them] for label, them in pending.items()}
    return [
        {
            **record(t.candidate, values[t.candidate.label], zoos, values.get(against or "")),
            "scale": round(t.scale, 3),
            "validation": round(score(t.validation).mean, 4),
        }
        for t in found
    ]


def record(
    candidate: Candidate,
    values: Sequence[Rows],
    zoos: Sequence[Zoo],
    against: Sequence[Rows] | None,
) -> dict[str, Any]:
    """What is kept of one candidate's test."""
    total = score(values)
    by_task: dict[str, list[float]] = {task: [] for task in values[0]}
    for rows in values:
        for task, share in task_means(rows).items():
            by_task[task].append(share)
    found: dict[str, Any] = {
        "label": candidate.label,
        "method": candidate.method,
        "options": dict(candidate.options),
        "mean": round(total.mean, 4),
        "error": round(total.error, 4),
        "by_zoo": {
            zoo.name: round(score([rows]).mean, 4) for zoo, rows in zip(zoos, values, strict=True)
        },
        "by_task": {task: round(sum(v) / len(v), 4) for task, v in by_task.items()},
    }
    if against:
        difference = score(values, against)
        found["difference"] = round(difference.mean, 4)
        found["difference_error"] = round(difference.error, 4)
    return found


def as_it_is(
    study: Study,
    candidates: Sequence[Candidate],
    zoos: Sequence[Zoo],
    rank: int,
    against: str | None = None,
) -> list[dict[str, Any]]:
    """Validates and tests merges at the scale they come with, as records for the JSON file."""
    merged = {c.label: [study.merge(study.sources(z), c, rank) for z in zoos] for c in candidates}
    pending = {
        (label, split): [
            study.evaluate(m, 1.0, split, tasks_of(z)) for m, z in zip(them, zoos, strict=True)
        ]
        for split in ("validation", "test")
        for label, them in merged.items()
    }
    values = {key: [p.result() for p in them] for key, them in pending.items()}
    records = []
    for candidate in candidates:
        found = record(
            candidate,
            values[candidate.label, "test"],
            zoos,
            values.get((against or "", "test")),
        )
        validation = values[candidate.label, "validation"]
        found["validation"] = round(score(validation).mean, 4)
        if against:
            difference = score(validation, values[against, "validation"])
            found["validation_difference"] = round(difference.mean, 4)
            found["validation_difference_error"] = round(difference.error, 4)
        found["scale"] = [round(1 / m.unit, 3) for m in merged[candidate.label]]
        records.append(found)
    return records
