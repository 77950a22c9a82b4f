"""The record of a search: what a call returns, and what `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lego_ray.merging.record import MergeRecord
from lego_ray.records import Record


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class TuneRecord(Record):
    """What became of a search. Keys are its attributes: `record["best"]` is `record.best`.

    Attributes:
        study_id: Hex sha256 of what the study is of: adapters, recipe, space, scorer, objective, seed.
        study: URI of the study, with a file a trial.
        trials: Number of trials, those of earlier runs included.
        failed: How many of them failed.
        failures: Each with `trial` and `reason`.
        best: The best trial: `trial`, `parameters`, `value` (of the objective), `score`, `tasks`.
        options: The options of `lego_ray.merge` that make the best merge, beside those that were given.
        report: Scores on the rows that no trial was chosen by, of `best`, `adaptive` and `paper`: each
            `value`, `score` and `tasks`, or `reason` if there is none.
        differences: From the best to `adaptive` and to `paper` on those rows: each `difference`,
            `error` (standard error, None if unknown) and `tasks`, which has both by task.
        merge: The record of the best merge, which is published.
        output: Its URI.
        catalog: URI of the catalog, or None.
        seconds: How long the call took.
        bytes_read: Bytes that the trials of this call read of adapters.
        warnings: What the user should know.
    """

    study_id: str
    study: str
    trials: int
    failed: int
    failures: tuple[Mapping[str, Any], ...]
    best: Mapping[str, Any]
    options: Mapping[str, Any]
    report: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Mapping[str, Any]]
    merge: MergeRecord
    output: str
    catalog: str | None
    seconds: float
    bytes_read: int
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.merge.name}: {self.trials} trials, {self.failed} failed, "
            f"best {self.best['value']:.6g}, {self.output}>"
        )

    def _shown(self) -> tuple[str, Mapping[str, Any]]:
        return f"{self.merge.name}: tuned", {
            "trials": self.trials,
            "failed": self.failed,
            "best value": self.best["value"],
            "output": self.output,
            "study": self.study,
            "warnings": "; ".join(self.warnings) or "none",
        }
