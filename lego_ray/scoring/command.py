"""Runs a scoring command on an adapter directory, within a time limit."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

from lego_ray.errors import InvalidOption, ScoringFailed
from lego_ray.scoring.score import Score, last_json_score
from lego_ray.scoring.warden import ended_with_us

ADAPTER, SPLIT = "{adapter}", "{split}"
ADAPTER_VARIABLE, SPLIT_VARIABLE = "LEGO_RAY_ADAPTER", "LEGO_RAY_SPLIT"
# What a scorer is asked for where nothing is held out.
ALL_ROWS = "all"
_OPTION = "--score"
_OF_A_SHELL = frozenset({"|", "||", "&&", "&", ";", ">", ">>", "<", "2>&1", "2>", "&>"})
# Bytes of its output that are read from the end: a scorer may print a log of any size before its score.
_TAIL = 1 << 20
_QUOTED_LINES, _QUOTED_LENGTH = 3, 400
# Seconds that a process has to end itself after SIGTERM.
_GRACE = 2.0


def words_of(command: str) -> tuple[str, ...]:
    """The words of a scoring command, which is run without a shell.

    Args:
        command: As a user writes it; quotes and backslashes are those of a POSIX shell.

    Raises:
        InvalidOption: If it cannot be split, needs a shell, or does not say where the adapter goes.
    """
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        problem = f"{command!r} cannot be split into words ({error})"
        raise InvalidOption(_OPTION, problem, "Close its quotes.") from None
    if not words:
        raise InvalidOption(_OPTION, "it is empty", f"Give a command, such as {_EXAMPLE}.")
    odd = next((word for word in words if word in _OF_A_SHELL or word.endswith(";")), None)
    if odd is not None:
        raise InvalidOption(
            _OPTION,
            f"{odd!r} needs a shell, and the command is run without one",
            f"Give the adapter to a shell by its variable: sh -c '... \"${ADAPTER_VARIABLE}\"'.",
        )
    if "=" in words[0].partition("/")[0]:
        raise InvalidOption(
            _OPTION,
            f"it starts with {words[0]!r}, which only a shell takes for a variable",
            f"Write env {words[0]} before the command.",
        )
    if ADAPTER not in command and ADAPTER_VARIABLE not in command:
        raise InvalidOption(
            _OPTION,
            f"{command!r} does not say where the adapter goes",
            f"Put {ADAPTER} where the adapter's directory goes, as in {_EXAMPLE}; or read the variable "
            f"{ADAPTER_VARIABLE} and name it in the command.",
        )
    return words


_EXAMPLE = f'"python score.py {ADAPTER}"'


def score_with_command(
    command: str,
    adapter_dir: str,
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> Score:
    """Runs a command on an adapter and reads the score that it prints.

    The command is split into words as a POSIX shell does and run without a shell, so no name of a
    directory can be taken for anything else. In each word `{adapter}` becomes the directory and
    `{split}` the value of LEGO_RAY_SPLIT, or `all`. The command also finds both in its variables
    LEGO_RAY_ADAPTER and LEGO_RAY_SPLIT. The score is the last line of its standard output that is a
    JSON object with `score`; see `Score`.

    It runs in a process group of its own, which is ended when the command ends, at the time limit,
    when this call is interrupted, and when this process is killed.

    Args:
        command: The command, such as `python score.py {adapter}`.
        adapter_dir: The adapter's directory.
        timeout_s: Seconds after which it is ended.
        environment: Variables for it beside those of this process.

    Returns:
        The score.

    Raises:
        InvalidOption: If the command cannot be run as it is written.
        ScoringFailed: If it cannot be started, takes longer, ends with an exit status other than 0, or
            prints no score.
    """
    given = dict(environment or {})
    split = given.setdefault(SPLIT_VARIABLE, ALL_ROWS)
    words = [word.replace(SPLIT, split).replace(ADAPTER, adapter_dir) for word in words_of(command)]
    where = f"scorer {command!r}"
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        variables = {**os.environ, ADAPTER_VARIABLE: adapter_dir, **given}
        status = _run(words, variables, out, err, timeout_s, where)
        printed, complaints = tail_of(out), tail_of(err)
    if status is None:
        problem = f"it took longer than {timeout_s:g} seconds and was ended{quoted_end(complaints)}"
        raise ScoringFailed(where, problem, "Raise the time limit, or score on fewer rows.")
    if status < 0:
        name = {each.value: each.name for each in signal.Signals}.get(-status, str(-status))
        raise ScoringFailed(
            where, f"it was ended by signal {name}{quoted_end(complaints or printed)}"
        )
    if status:
        quoted = quoted_end(complaints or printed)
        raise ScoringFailed(where, f"it ended with exit status {status}{quoted}")
    return last_json_score(printed, where)


def _run(
    words: Sequence[str],
    variables: Mapping[str, str],
    out: IO[bytes],
    err: IO[bytes],
    timeout_s: float,
    where: str,
) -> int | None:
    """Runs a command to its end; returns its exit status, or None at the time limit."""
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=variables,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in a word
        raise ScoringFailed(
            where,
            f"it cannot be started ({error})",
            "Check that its program exists, can be run, and is found by PATH.",
        ) from error
    with ended_with_us(process):
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that leads its group, and all that it started and left in that group.

    Args:
        process: The process; it is reaped.
    """
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        end = time.monotonic() + _GRACE
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says so of zombies
        os.killpg(group, number)


def tail_of(file: IO[bytes]) -> str:
    """The last part of a file, as text; a first line that is cut is left out."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    data = file.read(_TAIL)
    if size > _TAIL:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def quoted_end(text: str) -> str:
    """The last lines of what a scorer printed, as a clause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_QUOTED_LINES:]
    said = " / ".join(lines)
    if not said:
        return ""
    cut = said if len(said) <= _QUOTED_LENGTH else f"...{said[-_QUOTED_LENGTH:]}"
    return f": {cut.rstrip('.')}"
