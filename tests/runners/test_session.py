"""A Ray of our own is brought up even where its first start ran out of time, or lost a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from lego_ray.errors import RunFailed
from lego_ray.runners.ray.session import LOCAL_STARTS, RaySession
from tests.runners.killing import titled

pytestmark = pytest.mark.ray

# Ray's words.
TIMED_OUT = (
    "The current node timed out during startup. This could happen because some of the raylet"
)


def failing_first(times: int, words: str, init: Callable[..., Any]) -> tuple[Any, list[str]]:
    calls: list[str] = []

    def start(**options: Any) -> Any:
        calls.append(options["address"])
        if len(calls) <= times:
            raise Exception(words)
        return init(**options)

    return start, calls


def test_a_local_ray_that_timed_out_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
    start, calls = failing_first(1, TIMED_OUT, ray.init)
    monkeypatch.setattr(ray, "init", start)
    session = RaySession("local", 1)
    session.wait()
    assert ray.cluster_resources()["CPU"] == 1
    session.close()
    assert calls == ["local", "local"]


@pytest.mark.parametrize(("words", "starts"), [(TIMED_OUT, LOCAL_STARTS), ("no such flag", 1)])
def test_a_local_ray_that_cannot_start_says_why(
    words: str, starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
    start, calls = failing_first(9, words, ray.init)
    monkeypatch.setattr(ray, "init", start)
    session = RaySession("local", 1)
    with pytest.raises(RunFailed, match=words[:20]):
        session.wait()
    session.close()
    assert len(calls) == starts


STARTS = """
import sys
from lego_ray.runners.ray.session import RaySession
session = RaySession("local", 1)
session.wait()
print("up", flush=True)
sys.stdin.read()
session.close()
"""


def test_a_first_worker_that_is_killed_does_not_hold_up_the_driver() -> None:
    """Ray waited for it for ever, with the interpreter held: no signal was heard."""
    command = [sys.executable, "-c", STARTS]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        try:
            while not (found := titled("ray::IDLE", process.pid)) and process.poll() is None:
                time.sleep(0.005)  # it shows this title before it is counted
            os.kill(found[0], signal.SIGKILL)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, b"up\n")
