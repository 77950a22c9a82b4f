"""Scores adapters by a Python function, in a process that is kept from one adapter to the next.

What the function loads once, such as a base model, stays loaded. The process is ended at the time
limit, and the next adapter gets a new one; so does an adapter after one that crashed it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any

from lego_ray.errors import InvalidOption, ScoringFailed
from lego_ray.scoring.command import ALL_ROWS, end_group, quoted_end, tail_of
from lego_ray.scoring.score import Score, score_of
from lego_ray.scoring.warden import ended_with_us

# The child takes the import path of this process. The working directory is last on it, so that a module
# there is found and hides no other.
_BOOT = """\
import json, os, sys
sys.path[:] = [*json.loads(sys.stdin.readline()), os.getcwd()]
from lego_ray.scoring.serve import serve
serve()
"""


class ChildScorer:
    """Scores adapters by a function; see `serve.call` for how it is called."""

    def __init__(self, target: str, timeout_s: float, settings: Mapping[str, Any]) -> None:
        """Starts nothing yet.

        Args:
            target: The function, as `module:function`.
            timeout_s: Seconds that it may take for an adapter; for the first, with its imports.
            settings: What it is called with besides, as JSON values.
        """
        self._target = target
        self._timeout_s = timeout_s
        self._settings = dict(settings)
        self._child: _Child | None = None

    def check(self) -> None:
        """Imports the function.

        Raises:
            InvalidOption: If it cannot be imported or called.
        """
        answer = self._ask({"check": True})
        if "failed" in answer:
            raise InvalidOption(
                "--score",
                f"{self._target}: {answer['failed']}",
                "Its module is looked for on PYTHONPATH and in the working directory.",
            )

    def score(self, adapter_dir: str, split: str = ALL_ROWS) -> Score:
        """Calls the function on an adapter.

        Args:
            adapter_dir: The adapter's directory.
            split: `choose`, `report` or `all`.

        Raises:
            ScoringFailed: If it raises, takes longer than it may, or gives no score; or if its process
                ends.
        """
        answer = self._ask({"adapter": adapter_dir, "split": split})
        if "failed" in answer:
            raise ScoringFailed(self._where, f"it failed: {answer['failed']}")
        return score_of(answer["result"], self._where)

    def close(self) -> None:
        """Ends its process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    @property
    def _where(self) -> str:
        return f"scorer {self._target}"

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        end = time.monotonic() + self._timeout_s
        try:
            if self._child is None:
                self._child = _Child(self._where)
                self._child.send({"target": self._target, "settings": self._settings})
            self._child.send(request)
            line = self._child.line(end)
        except BaseException as error:
            printed = self._child.printed() if self._child else ""
            self.close()
            if isinstance(error, TimeoutError):
                problem = f"it took longer than {self._timeout_s:g} seconds and was ended"
                raise ScoringFailed(
                    self._where,
                    f"{problem}{quoted_end(printed)}",
                    "Raise the time limit, or score on fewer rows.",
                ) from None
            if isinstance(error, EOFError | BrokenPipeError):
                problem = f"its process ended without an answer{quoted_end(printed)}"
                raise ScoringFailed(self._where, problem) from None
            raise
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None}


class _Child:
    """A process that scores, and the pipes to it."""

    def __init__(self, where: str) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._left = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise ScoringFailed(where, f"no process could be started for it ({error})") from error
        self._watch = contextlib.ExitStack()
        self._watch.enter_context(ended_with_us(self._process))
        self.send(sys.path)

    def send(self, value: object) -> None:
        """Writes a line.

        Raises:
            BrokenPipeError: If the process ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        self._process.stdin.flush()

    def line(self, end: float) -> bytes:
        """Reads a line.

        Args:
            end: Until when, by `time.monotonic`.

        Raises:
            TimeoutError: If there is none until then.
            EOFError: If the process ended before.
        """
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._left:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError
            data = os.read(pipe, 1 << 16)
            if not data:
                raise EOFError
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return line

    def printed(self) -> str:
        """The end of what it printed."""
        return tail_of(self._log)

    def end(self) -> None:
        """Ends the process."""
        with self._watch:
            end_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):  # what could not be written to a dead child
                pipe.close()  # type: ignore[union-attr]
