"""Starts a run over when a file changed under it, as often as `planning.source_changes` has it."""

from __future__ import annotations

from collections.abc import Callable
from logging import WARNING
from typing import TypeVar

from lego_ray import journal
from lego_ray.errors import SourceChanged
from lego_ray.planning.source_changes import Attempt

T = TypeVar("T")


def rescanning(run: Callable[[Attempt], T], *, strict: bool = False) -> T:
    """Does a run, from its scan on; once more if a source changed since its scan.

    Args:
        run: Scans, plans and reads. What it leaves behind when it raises `SourceChanged` must not get
            into the next try.
        strict: Whether a change ends it.

    Raises:
        SourceChanged: If a source changed and the run is not to start over.
    """
    attempt = Attempt(strict)
    while True:
        try:
            return run(attempt)
        except SourceChanged as error:
            attempt = attempt.after(error)
            journal.note(
                "source changed",
                "",
                WARNING,
                file=error.where,
                adapter=error.adapter,
                reason=error.problem,
                then="scanning and planning again",
            )
