"""Tasks done in processes beside this one: the same results, whatever becomes of the processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import LegoRayError, RunFailed
from lego_ray.runners import inline
from lego_ray.runners.inline import InlineRunner
from lego_ray.runners.task_process import ProcessEnded, TaskProcess
from lego_ray.runners.task_server import _that_travels
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.solve import solve_task
from lego_ray.tasks.values import SolveTask, TaskResult
from tests.zoo import Site, mixed_zoo, weights_of, write_zoo

PATIENCE = 60.0


@pytest.fixture
def tasks(tmp_path: Path) -> list[SolveTask]:
    """Eight tasks of a site each, with memory for three processes."""
    sites = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(8))
    plan = lego_ray.plan(write_zoo(tmp_path / "zoo", 2, sites=sites), rank=2)
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    plan = lego_ray.plan(tmp_path / "zoo", rank=2, memory_budget=budget)
    assert len(plan.tasks) == 8
    return [replace(task, memory_budget=8 * budget) for task in tasks_of(plan)]


@pytest.fixture
def process() -> Iterator[TaskProcess]:
    made = TaskProcess()
    yield made
    made.close()


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Processes are started whatever the work; the process ids of those that were asked for a task."""
    asked: list[int] = []
    run = TaskProcess.run

    def running(self: TaskProcess, task: Any) -> Any:
        asked.append(self._process.pid)
        return run(self, task)

    monkeypatch.setattr(inline, "PROCESSES_PAY", 0.0)
    monkeypatch.setattr(TaskProcess, "run", running)
    return asked


def same(one: TaskResult, two: TaskResult) -> bool:
    """Whether two results have the same bits; their times are not compared."""
    [first], [second] = one.sites, two.sites
    return (
        (one.index, one.tensor_hashes, one.bytes_read, one.requests)
        == (two.index, two.tensor_hashes, two.bytes_read, two.requests)
        and first.a.tobytes() == second.a.tobytes()
        and first.b.tobytes() == second.b.tobytes()
        and first.inertia == second.inertia
    )


def test_a_process_gives_the_results_of_this_one(
    tasks: list[SolveTask], process: TaskProcess
) -> None:
    for task in tasks:
        assert same(process.run(task), solve_task(task))


def test_what_a_task_raises_is_raised_here(
    tasks: list[SolveTask], process: TaskProcess, tmp_path: Path
) -> None:
    source = tasks[0].sources[0]
    (tmp_path / "zoo" / Path(source.uri).name / source.weights_key).unlink()
    with pytest.raises(LegoRayError) as here:
        solve_task(tasks[0])
    with pytest.raises(LegoRayError) as there:
        process.run(tasks[0])
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))
    assert process.run(replace(tasks[1], sources=tasks[1].sources[1:])).index == 1  # it goes on


@pytest.mark.parametrize("method", ["lego", "svd", "ties"])
@pytest.mark.parametrize("workers", [2, 3])
def test_merges_are_the_same_bytes(
    tmp_path: Path, worth_it: list[int], method: str, workers: int
) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    options: dict[str, Any] = {"rank": 6, "method": method, "name": "m", "runner": "inline"}
    peak = max(
        s.peak_bytes for t in lego_ray.plan(zoo, rank=6, method=method).tasks for s in t.sites
    )
    lego_ray.merge(zoo, output=tmp_path / "one", workers=1, memory_budget=peak, **options)
    assert worth_it == []
    lego_ray.merge(zoo, output=tmp_path / "many", workers=workers, memory_budget="4GiB", **options)
    assert weights_of(tmp_path / "many") == weights_of(tmp_path / "one")


def test_several_processes_do_tasks(tasks: list[SolveTask], worth_it: list[int]) -> None:
    runner = InlineRunner(workers=3)
    found = list(runner.run(tasks))
    assert all(same(one, solve_task(task)) for one, task in zip(found, tasks, strict=True))
    assert len(set(worth_it)) == 2
    assert len(list(runner.run(tasks))) == 8  # by the same processes
    assert len(set(worth_it)) == 2
    runner.close()
    assert not any(map(alive, set(worth_it)))


def test_a_process_that_dies_costs_nothing_but_time(
    tasks: list[SolveTask],
    worth_it: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = TaskProcess.__init__

    def dying(self: TaskProcess) -> None:
        started(self)
        os.kill(self._process.pid, signal.SIGKILL)

    monkeypatch.setattr(TaskProcess, "__init__", dying)
    runner = InlineRunner(workers=2)
    with caplog.at_level(logging.WARNING, "lego_ray"):
        found = list(runner.run(tasks))
    runner.close()
    assert all(same(one, solve_task(task)) for one, task in zip(found, tasks, strict=True))
    assert worth_it
    [told] = [record for record in caplog.records if record.event == "process lost"]  # type: ignore[attr-defined]
    assert told.fields["reason"] == "exit status -9"  # type: ignore[attr-defined]


def test_a_process_that_has_ended_takes_no_task(tasks: list[SolveTask]) -> None:
    process = TaskProcess()
    process.close()
    with pytest.raises(ProcessEnded):
        process.run(tasks[0])


def test_a_run_that_is_left_ends_its_processes(tasks: list[SolveTask], worth_it: list[int]) -> None:
    runner = InlineRunner(workers=2)
    results = runner.run(tasks)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not any(map(alive, set(worth_it)))
    runner.close()


def test_processes_keep_to_the_memory_of_one_worker(
    tasks: list[SolveTask], worth_it: list[int]
) -> None:
    tight = [replace(task, memory_budget=task.plan.peak_bytes) for task in tasks]
    runner = InlineRunner(workers=4)
    assert len(list(runner.run(tight))) == 8
    runner.close()
    assert worth_it == []


def test_a_small_run_starts_no_process(tasks: list[SolveTask], monkeypatch: Any) -> None:
    monkeypatch.setattr(inline, "TaskProcess", None)  # to start one would be a TypeError
    runner = InlineRunner(workers=2)
    assert len(list(runner.run(tasks))) == 8
    runner.close()


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os, signal; from lego_ray.runners.task_process import TaskProcess;"
        "print(TaskProcess()._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    until(lambda: not alive(pid))


def test_an_error_that_does_not_travel_is_told() -> None:
    class Local(Exception):
        """Nobody else can find it."""

    error = _that_travels(Local("why"))
    assert isinstance(error, RunFailed)
    assert "Local: why" in str(error)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def until(so: Callable[[], bool]) -> None:
    end = monotonic() + PATIENCE
    while not so():
        assert monotonic() < end
        sleep(0.05)
