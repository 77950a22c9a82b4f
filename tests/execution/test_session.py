"""A Ray of our own is brought up even where its first start ran out of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lego_ray.errors import BadInput
from lego_ray.execution.on_ray.session import LOCAL_STARTS, RaySession

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
    with pytest.raises(BadInput, match=words[:20]):
        session.wait()
    session.close()
    assert len(calls) == starts
