"""Scores of merges that are compared, from a command of the user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lego_ray.errors import ScoringFailed
from lego_ray.output.manifest import MANIFEST_KEY
from lego_ray.output.read import checked_files, read_manifest
from lego_ray.scoring import score_with_command
from lego_ray.storage.places import Place
from lego_ray.verification.comparison_record import MergeComparison


def with_scores(
    record: MergeComparison, places: Sequence[Place], command: str, timeout_s: float
) -> MergeComparison:
    """A comparison with the score of each merge; one that cannot be scored has none, and a warning.

    Args:
        record: The comparison.
        places: Where its merges are, in their order.
        command: As for `scoring.command.score_with_command`.
        timeout_s: Most seconds for each merge.

    Raises:
        InvalidOption: If the command cannot be run as it is written.
        VerificationFailed: If a file of a merge that is copied is not what the manifest says.
    """
    scored, warnings = [], list(record.warnings)
    for merge, place in zip(record.merges, places, strict=True):
        try:
            with _on_disk(place) as folder:
                score = score_with_command(command, folder, timeout_s=timeout_s)
        except ScoringFailed as error:
            warnings.append(f"{merge.label} has no score: {error.problem}")
            scored.append(merge)
        else:
            scored.append(replace(merge, score=score.value, task_scores=dict(score.tasks)))
    return replace(record, merges=tuple(scored), warnings=tuple(warnings))


@contextmanager
def _on_disk(place: Place) -> Iterator[str]:
    """A merge's directory; of one in a remote store a copy, which is deleted at the end."""
    if place.is_local:
        yield str(place)
        return
    with TemporaryDirectory(prefix="lego-ray-score-") as folder:
        store = place.open()
        manifest, data = read_manifest(store)
        for key, each in (*checked_files(store, manifest), (MANIFEST_KEY, data)):
            path = Path(folder) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each)
        yield folder
