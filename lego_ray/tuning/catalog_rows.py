"""The rows that a catalog gets of a search."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lego_ray.merging.record import MergeRecord
from lego_ray.planning.recipe import canonical_json
from lego_ray.tuning.study import Trial


def trial_rows(
    study_id: str, trials: Sequence[Trial], best: Trial, merge: MergeRecord
) -> list[dict[str, Any]]:
    """Rows of `trials`.

    Args:
        study_id: The study.
        trials: Its trials.
        best: The best of them.
        merge: The merge that was published of the best.
    """
    now = datetime.now(UTC)
    return [
        {
            "study_id": study_id,
            "name": merge.name,
            "trial": trial.number,
            "parameters": canonical_json(trial.choice.as_json()),
            "status": trial.status,
            "reason": trial.reason or None,
            "value": trial.value,
            "score": trial.score.value if trial.score else None,
            "tasks": list(trial.score.tasks.items()) if trial.score else None,
            "seconds": trial.seconds,
            "merge_id": merge.merge_id if trial.number == best.number else None,
            "recorded_at": now,
        }
        for trial in trials
    ]
