"""Texts by task, and the halves that choose and report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lego_ray.errors import InvalidOption
from lego_ray.scoring.command import ALL_ROWS

FLAG = "--score-texts"
# Parts of a held-out split: rows that trials are chosen by, and rows that the winner is reported on.
CHOOSE, REPORT = "choose", "report"
_FORM = 'Write each line as {"text": "...", "task": "..."}; prompt and task may be left out.'
_UNNAMED = "text"


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text.

    Attributes:
        task: Its task.
        prompt: What comes before it and is not scored; may be empty.
        text: The text.
    """

    task: str
    prompt: str
    text: str

    @property
    def mark(self) -> str:
        """What decides about its half: the same wherever the row stands."""
        return hashlib.sha256(json.dumps([self.task, self.prompt, self.text]).encode()).hexdigest()


def read_rows(path: str) -> tuple[TextRow, ...]:
    """The rows of a file of JSON lines.

    Args:
        path: The file, on this machine.

    Raises:
        InvalidOption: If it cannot be read, a line is not a row, or a task has fewer than two rows.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InvalidOption(FLAG, f"{path} cannot be read ({error})", "Give a file.") from error
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    marks: dict[str, set[str]] = {}
    for row in rows:
        marks.setdefault(row.task, set()).add(row.mark)
    few = [task for task, found in marks.items() if len(found) < 2]
    if few or not rows:
        task = f"task {few[0]}" if few else "the file"
        raise InvalidOption(
            FLAG,
            f"{path}: {task} has fewer than two different rows",
            "One half of the rows chooses the merge and the other half reports on it.",
        )
    return tuple(rows)


def rows_by_task(rows: Sequence[TextRow], split: str) -> Mapping[str, Sequence[TextRow]]:
    """The rows of one half by task; equal rows are in the same half.

    In each task every second row by the order of their hashes is in the other half, so the halves
    depend on no order in the file and differ by one row at most.

    Args:
        rows: All rows.
        split: `choose`, `report` or `all`.

    Raises:
        InvalidOption: If there is no such half.
    """
    if split not in (CHOOSE, REPORT, ALL_ROWS):
        raise InvalidOption("split", f"{split!r} is not choose, report or all")
    tasks: dict[str, list[TextRow]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    if split == ALL_ROWS:
        return tasks
    found: dict[str, Sequence[TextRow]] = {}
    for task, mine in tasks.items():
        marks = sorted({row.mark for row in mine})
        half = set(marks[0::2] if split == CHOOSE else marks[1::2])
        found[task] = [row for row in mine if row.mark in half]
    return found


def _row(line: str, where: str) -> TextRow:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(FLAG, f"{where} is not JSON ({error})", _FORM) from None
    if not isinstance(found, dict) or not isinstance(found.get("text"), str) or not found["text"]:
        raise InvalidOption(FLAG, f"{where} has no text", _FORM)
    task, prompt = found.get("task", _UNNAMED), found.get("prompt", "")
    for name, value in (("task", task), ("prompt", prompt)):
        if not isinstance(value, str):
            raise InvalidOption(FLAG, f"{where}: {name} is {value!r:.80}, not text", _FORM)
    return TextRow(task, prompt, found["text"])
