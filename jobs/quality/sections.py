"""The benchmark's comparisons, a function each; each returns records for the JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.quality.candidates import Candidate
from jobs.quality.scores import Rows, score, task_means
from jobs.quality.study import Study, tasks_of
from jobs.quality.tuning import Tuned, measured, record, tune
from jobs.quality.zoos import CONSTRUCTED, ZOOS, Zoo

RANK = 8
MAIN = tuple(zoo for zoo in ZOOS if zoo.kind in ("separate", "shared"))
TUNED_ON = MAIN[:2]  # the first training seed's, of both kinds
(MIXED,) = (zoo for zoo in ZOOS if zoo.kind == "mixed")
(WITH_CONSTRUCTED,) = (zoo for zoo in ZOOS if zoo.kind == "constructed")

Records = list[dict[str, Any]]


def bounds(study: Study, zoos: Sequence[Zoo]) -> Records:
    """The base alone, and each task's own adapter: what a merge is between."""
    base = study.base(tasks_of(zoos[0]))
    own = [[study.source(adapter) for adapter in zoo.adapters] for zoo in zoos]
    values: list[Rows] = [
        {task: row for pending in them for task, row in pending.result().items()} for them in own
    ]
    return [
        record(Candidate("base", "none"), [base.result()] * len(zoos), zoos, None),
        record(Candidate("each task's own adapter", "none"), values, zoos, None),
    ]


def mixed_ranks(study: Study, candidates: Sequence[Candidate], against: str) -> Records:
    """A zoo of ranks 4, 8 and 16 merged at rank 8, scales tuned on its own validation rows."""
    return measured(study, tune(study, candidates, [MIXED], RANK, [MIXED]), [MIXED], against)


def pruning(study: Study, candidates: Sequence[Candidate], zoo: Zoo) -> Records:
    """Each adapter of a zoo alone, at ranks below its own, at the scale it comes with."""
    asked = [(c, k, a) for c in candidates for k in (1, 2, 4, RANK) for a in zoo.adapters]
    pending = []
    for candidate, rank, adapter in asked:
        (source,) = [s for s in study.sources(zoo) if s.name == adapter.name]
        merged = study.merge([source], candidate, rank)
        pending.append(study.evaluate(merged, 1.0, "test", (adapter.task,)))
    rows: dict[tuple[str, int], dict[str, list[float]]] = {}
    for (candidate, rank, _), evaluated in zip(asked, pending, strict=True):
        rows.setdefault((candidate.label, rank), {}).update(evaluated.result())
    return [
        {
            "label": label,
            "rank": rank,
            "mean": round(score([found]).mean, 4),
            "error": round(score([found]).error, 4),
        }
        for (label, rank), found in rows.items()
    ]


def by_rank(study: Study, found: Sequence[Tuned], ranks: Sequence[int], zoo: Zoo) -> Records:
    """One zoo merged at several ranks, at the scale found for rank 8."""
    records = []
    for rank in ranks:
        for tuned in found:
            merged = study.merge(study.sources(zoo), tuned.candidate, rank)
            pending = study.evaluate(merged, tuned.scale * merged.unit, "test", tasks_of(zoo))
            records.append((tuned.candidate.label, rank, pending))
    return [
        {
            "label": label,
            "rank": rank,
            "mean": round(score([pending.result()]).mean, 4),
            "error": round(score([pending.result()]).error, 4),
        }
        for label, rank, pending in records
    ]


def with_constructed(study: Study, found: Sequence[Tuned]) -> Records:
    """A constructed task's adapter added: its task apart from the natural ones' mean."""
    zoo, records = WITH_CONSTRUCTED, []
    for tuned in found:
        merged = study.merge(study.sources(zoo), tuned.candidate, RANK)
        pending = study.evaluate(merged, tuned.scale * merged.unit, "test", tasks_of(zoo))
        records.append((tuned.candidate.label, pending))
    result = []
    for label, pending in records:
        values = pending.result()
        natural = {task: rows for task, rows in values.items() if task != CONSTRUCTED}
        result.append(
            {
                "label": label,
                "mean": round(score([natural]).mean, 4),
                "error": round(score([natural]).error, 4),
                CONSTRUCTED: round(task_means(values)[CONSTRUCTED], 4),
            }
        )
    return result
