"""What happens in a run, on stderr: as text for people, or one JSON object a line for machines."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import Any

import click

from lego_ray.cli.defaults import log_defaults
from lego_ray.journal import LOGGER, note


class _Handler(logging.Handler):
    """Writes around a progress bar, if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%SZ")
        return f"{at} {record.levelname.lower():7} {record.getMessage()}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.getMessage()),
            "plan": getattr(record, "plan", None),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line, default=str)


# Events that people are told of without --log too.
_ALWAYS = ("waiting", "cache")
# Events without which a person at a terminal would see nothing for seconds.
_ON_TERMINALS = ("starting Ray",)
# The answers of `merge` and `update` list these, so their logs leave them out.
QUARANTINED = "adapter quarantined"
_FORMATS = {"text": _Text, "json": _Json}


# The runner says by itself what it waits for.
_OF_RAY = ("(autoscaler", "(raylet) There are tasks with infeasible resource requests")


class _Printed(io.TextIOBase):
    """A stdout whose lines become events: there Ray prints that a worker died, also when set quiet."""

    def __init__(self) -> None:
        self._begun = ""
        self._said: set[str] = set()
        self._writing = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._writing:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            said = click.unstyle(line).strip()
            # Ray prints some lines again and again, and with them what its autoscaler knows.
            if said and said not in self._said and not said.startswith(_OF_RAY):
                self._said.add(said)
                note("printed", "", text=said)
        return len(text)


@contextmanager
def shown(kind: str, *reported: str) -> Iterator[None]:
    """Shows what is logged in the block: as `text`, as `json`, or, for `none`, warnings alone.

    What anyone prints in it is logged too: stdout is for what the command answers after it.

    Args:
        kind: One of those.
        *reported: Events that the command's answer repeats, which `none` leaves out.
    """
    with redirect_stdout(_Printed()), _handling(kind, reported):
        log_defaults()
        yield


@contextmanager
def waits_shown() -> Iterator[None]:
    """Shows, in the block, that the Hub is waited for or not reached, where nothing else shows it."""

    class Waits(_Handler):
        def emit(self, record: logging.LogRecord) -> None:
            others = [each for each in LOGGER.handlers if isinstance(each, _Handler)]
            if getattr(record, "event", "") in _ALWAYS and others == [self]:
                about = getattr(record, "fields", {})
                print(f"{about.get('where')}: {about.get('reason')}", file=sys.stderr, flush=True)

    handler = Waits(logging.WARNING)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


@contextmanager
def _handling(kind: str, reported: Sequence[str]) -> Iterator[None]:
    at_terminal = _ON_TERMINALS if kind == "none" and sys.stderr.isatty() else ()
    handler = _Handler(logging.WARNING if kind == "none" and not at_terminal else logging.INFO)
    if kind == "none":  # the command itself reports the error that ends a run, and what it left out
        handler.addFilter(
            lambda record: (
                getattr(record, "event", "") in at_terminal
                or (
                    record.levelno == logging.WARNING
                    and getattr(record, "event", "") not in reported
                )
            )
        )
    handler.setFormatter(_FORMATS.get(kind, _Text)())
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(handler.level)
    try:
        yield
    finally:
        LOGGER.setLevel(before)
        LOGGER.removeHandler(handler)
