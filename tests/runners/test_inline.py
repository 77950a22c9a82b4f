"""Tasks in this process: several at once within one worker's memory, and the same bits."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import LegoRayError, SitesFailed
from lego_ray.runners.inline import InlineRunner
from lego_ray.tasks import solve
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.values import SolveTask, TaskResult
from tests.zoo import Site, mixed_zoo, weights_of, write_zoo

# Far longer than a tiny task takes, and waited for only where the test fails.
PATIENCE = 20.0


@pytest.fixture
def tasks(tmp_path: Path) -> list[SolveTask]:
    """Four tasks of a site each, with memory for all at once."""
    sites = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(4))
    zoo = write_zoo(tmp_path / "zoo", 2, sites=sites)
    whole = lego_ray.plan(zoo, rank=2)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    plan = lego_ray.plan(zoo, rank=2, memory_budget=budget)
    assert len(plan.tasks) == 4
    return [replace(task, memory_budget=4 * budget) for task in tasks_of(plan)]


class Seen:
    """How many tasks compute at once, and at most did; each stays until `together` are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, together: int) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._met = threading.Barrier(together)
        self._finish = solve.solve_extracted
        monkeypatch.setattr(solve, "solve_extracted", self._solved)

    def _solved(self, *given: Any) -> TaskResult:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self._met.wait(PATIENCE)
        result = self._finish(*given)
        with self._lock:
            self._now -= 1
        return result


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_as_many_compute_at_once_as_are_asked_for(
    tasks: list[SolveTask], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    seen = Seen(monkeypatch, workers)
    results = InlineRunner(workers=workers).run(tasks)
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert seen.most == workers


def test_together_they_keep_to_the_memory_of_one_worker(
    tasks: list[SolveTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch, 1)
    tight = [replace(task, memory_budget=task.plan.peak_bytes) for task in tasks]
    assert len(list(InlineRunner(workers=4).run(tight))) == 4
    assert seen.most == 1


def test_the_first_error_ends_the_run_and_nothing_is_begun_after_it(
    tasks: list[SolveTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, finish = [], solve.solve_extracted

    def solved(task: SolveTask, *given: Any) -> TaskResult:
        begun.append(task.index)
        if task.index == 1:
            raise SitesFailed("layers.1.q_proj", "it is made to fail")
        return finish(task, *given)

    monkeypatch.setattr(solve, "solve_extracted", solved)
    runner = InlineRunner(workers=1)
    results = runner.run(tasks)
    assert next(results).index == 0
    with pytest.raises(LegoRayError, match="made to fail"):
        list(results)
    runner.close()
    assert set(begun) <= {0, 1, 2}  # the third may have begun before the error was seen
    assert not [t for t in threading.enumerate() if t.name.startswith("tasks-")]


def test_a_run_that_is_left_ends_its_threads(tasks: list[SolveTask]) -> None:
    runner = InlineRunner(workers=2)
    results = runner.run(tasks)
    next(results)
    results.close()  # type: ignore[attr-defined]
    runner.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tasks-")]


@pytest.mark.parametrize("method", ["lego", "svd", "ties", "knots"])
def test_any_number_of_threads_gives_the_same_bytes(tmp_path: Path, method: str) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    budget = max(
        site.peak_bytes
        for task in lego_ray.plan(zoo, rank=6, method=method).tasks
        for site in task.sites
    )
    made = set()
    for workers, most in ((1, budget), (1, "4GiB"), (4, 4 * budget)):
        output = tmp_path / f"{workers}-{most}"
        options: dict[str, Any] = {"name": "m", "method": method, "memory_budget": most}
        lego_ray.merge(zoo, rank=6, output=output, runner="inline", workers=workers, **options)
        made.add(weights_of(output))
    assert len(made) == 1
