"""How an error ends a command: shown once, short, with what to do next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import TracebackException
from typing import Any

import click

from lego_ray.cli.printing import print_json, styled, visible
from lego_ray.errors import LegoRayError, MergesFailed, redacted
from lego_ray.faults import of_the_machine

# Set to anything but 0, it is `--debug` for every command.
DEBUG_VARIABLE = "LEGO_RAY_DEBUG"


class Failed(Exception):
    """A command that has something to show and fails all the same.

    Args:
        record: What `--json` prints, with the error in it.
        error: Why it fails.
    """

    def __init__(self, record: Mapping[str, Any], error: LegoRayError) -> None:
        super().__init__(record, error)
        self.record = record
        self.error = error


def check_all_made(record: Mapping[str, Any]) -> None:
    """Passes the record of a library all of whose merges were made.

    Raises:
        Failed: If some could not be, after the others were.
    """
    if failed := [each["merge"] for each in record["failed"]]:
        of = len(failed) + len(record["merges"])
        problem = f"{len(failed)} of {of} merges could not be made: {', '.join(failed)}"
        raise Failed(record, MergesFailed("this library", problem))


@dataclass(frozen=True, slots=True)
class _Told:
    """The message of an error.

    Attributes:
        text: For people.
        kind: Its class; UsageError for whatever the words of the command are wrong in.
        message: What is wrong, and where.
        next: What to do about it.
        status: The exit status.
    """

    text: str
    kind: str
    message: str
    next: str
    status: int

    def as_json(self) -> dict[str, Any]:
        return {
            "type": self.kind,
            "message": self.message,
            "next": self.next,
            "exit_status": self.status,
        }


@contextmanager
def told(words: Sequence[str]) -> Iterator[None]:
    """Ends the process if the block fails: one message on stderr, and the exit status that goes with it.

    With `--json` among the words, stdout has `{"error": {type, message, next, exit_status}}`, and what
    else there is to show in the same object. With `--debug` the trace comes before the message.

    Args:
        words: Those of the command line.
    """
    try:
        yield
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        record = error.record if isinstance(error, Failed) else {}
        cause = error.error if isinstance(error, Failed) else error
        said = _said(of_the_machine(cause) or cause)
        if _given(words, "--debug") or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            _print_trace(error if cause.__traceback__ is None else cause)
        if _given(words, "--json"):
            print_json({**record, "error": said.as_json()})
        text = visible(_for_stderr(said, cause), lines=True)
        if text.startswith(said.kind):
            text = f"{styled(said.kind, fg='red', bold=True)}{text.removeprefix(said.kind)}"
        click.echo(text, err=True)
        sys.exit(said.status)


def _said(error: Exception) -> _Told:
    name = type(error).__name__
    if isinstance(error, LegoRayError):
        return _Told(f"{name}: {error}", name, error.what, error.hint, error.exit_code)
    if isinstance(error, click.UsageError):
        message = error.format_message()
        if error.ctx and message == error.ctx.get_help():  # no command was given
            return _Told(message, "UsageError", "no command is given", "Give one.", 2)
        see = f"See `{error.ctx.command_path if error.ctx else 'lego-ray'} --help`."
        return _Told(f"{message}\n{see}", "UsageError", message, see, 2)
    if isinstance(error, click.ClickException):
        message = error.format_message()
        return _Told(message, name, message, "", error.exit_code)
    message = redacted(f"{name}: {error}").rstrip(": ")
    hint = "This is a fault of lego-ray: please report what the same command shows with --debug."
    return _Told(f"{message}\n{hint}", name, message, hint, 1)


def _for_stderr(said: _Told, cause: Exception) -> str:
    """The text for people; on a terminal the reason comes before a place that fills half a line."""
    head = f"{said.kind}: "
    if not isinstance(cause, LegoRayError) or "\n" in cause.problem or not sys.stderr.isatty():
        return said.text
    if len(head) + len(cause.where) <= shutil.get_terminal_size().columns // 2:
        return said.text
    reason = cause.what.removeprefix(f"{cause.where}: ")
    return f"{head}{reason} {cause.hint}\nat {cause.where}"


def _given(words: Sequence[str], flag: str) -> bool:
    """Whether a flag is among words that may not even parse."""
    before = words[: words.index("--")] if "--" in words else words
    return flag in before


def _print_trace(error: BaseException) -> None:
    """Everything except the last lines, which repeat the message."""
    found = TracebackException.from_exception(error)
    lines = list(found.format())
    last = len(list(found.format_exception_only()))
    text = redacted("".join(lines[: len(lines) - last]))
    click.echo(visible(text, lines=True), err=True, nl=False)
