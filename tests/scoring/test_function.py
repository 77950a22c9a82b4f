"""Scoring functions: imported once in a process that is kept, and replaced when it is ended."""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path

import pytest

from lego_ray.errors import InvalidOption, ScoringFailed
from lego_ray.scoring import Score
from lego_ray.scoring.child import ChildScorer
from lego_ray.scoring.scorer import CommandScorer, scorer_of

ENOUGH = 120.0
MODULE = """
import os, time
CALLS = []
def number(adapter):
    print("this is no answer")
    CALLS.append(adapter)
    return len(CALLS)
def by_split(adapter, split, factor=1):
    return {"score": factor, "tasks": {split: 2 * factor}, "rows": {split: [factor, 3 * factor]}}
def raising(adapter):
    raise ValueError("no such task")
def ending(adapter):
    import sys
    print("out of everything", file=sys.stderr, flush=True)
    os._exit(3)
def slow(adapter):
    if adapter == "slow":
        time.sleep(600)
    return os.getpid()
NOT_A_FUNCTION = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scorers_of_a_test.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def scorer(name: str, timeout_s: float = ENOUGH, **settings: object) -> ChildScorer:
    return ChildScorer(f"scorers_of_a_test:{name}", timeout_s, settings)


def test_a_text_is_a_function_or_a_command() -> None:
    assert isinstance(scorer_of("a.module:function", 1), ChildScorer)
    assert isinstance(scorer_of("python score.py {adapter}", 1), CommandScorer)


def test_what_the_module_holds_stays_from_one_adapter_to_the_next() -> None:
    counting = pickle.loads(pickle.dumps(scorer("number")))
    try:
        counting.check()
        assert [counting.score("a"), counting.score("b")] == [Score(1.0, {}), Score(2.0, {})]
    finally:
        counting.close()


def test_a_function_gets_the_split_and_the_settings_it_asks_for() -> None:
    splitting = scorer("by_split", factor=2)
    try:
        found = splitting.score("a", "report")
        assert found == Score(2.0, {"report": 4.0}, {"report": (2.0, 6.0)})
    finally:
        splitting.close()


def test_an_error_is_a_failed_score_and_the_process_goes_on() -> None:
    failing = scorer("raising")
    try:
        for _ in range(2):
            with pytest.raises(ScoringFailed, match="ValueError: no such task"):
                failing.score("a")
    finally:
        failing.close()


def test_a_process_that_ends_is_a_failed_score() -> None:
    ending = scorer("ending")
    with pytest.raises(ScoringFailed, match="ended without an answer: out of everything"):
        ending.score("a")


def test_the_time_limit_ends_the_process_and_the_next_adapter_gets_another() -> None:
    slow = scorer("slow", 20.0)
    try:
        first = int(slow.score("a").value)
        with pytest.raises(ScoringFailed, match="longer than 20 seconds"):
            slow.score("slow")
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert slow.score("a").value not in (first, os.getpid())
    finally:
        slow.close()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing", "AttributeError"),
        ("NOT_A_FUNCTION", "is not a function"),
    ],
)
def test_a_function_that_cannot_be_called_is_bad_input(name: str, problem: str) -> None:
    odd = scorer(name)
    try:
        with pytest.raises(InvalidOption, match=problem):
            odd.check()
    finally:
        odd.close()


def test_a_module_that_does_not_exist_is_bad_input() -> None:
    odd = ChildScorer("no_such_module_anywhere:score", ENOUGH, {})
    try:
        with pytest.raises(InvalidOption, match="No module named 'no_such_module_anywhere'"):
            odd.check()
    finally:
        odd.close()


def test_a_process_ends_with_its_asker() -> None:
    slow = scorer("slow")
    child = int(slow.score("a").value)
    assert slow._child is not None
    assert slow._child._process.stdin is not None
    slow._child._process.stdin.close()
    end = time.monotonic() + ENOUGH
    while slow._child._process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert slow._child._process.returncode == 0
    slow.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
