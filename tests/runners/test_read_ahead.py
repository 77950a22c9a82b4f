"""The next task's reads run beside this one's arithmetic, where memory allows."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lego_ray
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.runners.inline import InlineRunner
from lego_ray.runners.ray import runner as on_ray
from lego_ray.tasks import read, solve
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.values import SolveTask, SourceSlice, TaskResult
from tests.zoo import Site, write_zoo

# Far longer than a tiny read takes, and waited for only where the test fails.
PATIENCE = 20.0


@pytest.fixture
def tasks(tmp_path: Path) -> list[SolveTask]:
    """Three tasks of a site each, with memory for two at once."""
    sites = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(3))
    zoo = write_zoo(tmp_path / "zoo", 2, sites=sites)
    whole = lego_ray.plan(zoo, rank=2)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    plan = lego_ray.plan(zoo, rank=2, memory_budget=budget)
    assert len(plan.tasks) == 3
    return [replace(task, memory_budget=2 * budget) for task in tasks_of(plan)]


def test_the_next_task_is_read_while_this_one_is_solved(
    tasks: list[SolveTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = [threading.Event() for _ in tasks]
    extract, finish = solve.extract_task, solve.solve_extracted

    def extracted(task: SolveTask) -> Any:
        read[task.index].set()
        return extract(task)

    def solved(task: SolveTask, *given: Any) -> TaskResult:
        if task.index + 1 < len(tasks):
            assert read[task.index + 1].wait(PATIENCE), "its reads wait for this arithmetic"
        return finish(task, *given)

    monkeypatch.setattr(solve, "extract_task", extracted)
    monkeypatch.setattr(solve, "solve_extracted", solved)
    assert [result.index for result in InlineRunner().run(tasks)] == [0, 1, 2]


def test_it_is_not_where_both_would_outgrow_the_budget(
    tasks: list[SolveTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    extract, finish = solve.extract_task, solve.solve_extracted

    def extracted(task: SolveTask) -> Any:
        events.append(("read", task.index))
        return extract(task)

    def solved(task: SolveTask, *given: Any) -> TaskResult:
        result = finish(task, *given)
        events.append(("solved", task.index))
        return result

    monkeypatch.setattr(solve, "extract_task", extracted)
    monkeypatch.setattr(solve, "solve_extracted", solved)
    tight = [replace(task, memory_budget=task.plan.peak_bytes) for task in tasks]
    assert len(list(InlineRunner().run(tight))) == 3
    assert events == [(what, i) for i in range(3) for what in ("read", "solved")]
    assert all(task.plan.peak_bytes > WORKER_BYTES for task in tasks)


def test_on_ray_a_core_has_a_second_task_only_where_reads_wait(tasks: list[SolveTask]) -> None:
    here = tasks[0]
    afar = replace(here, sources=tuple(replace(s, uri="s3://zoo/a") for s in here.sources))
    assert (on_ray.tasks_a_core(here), on_ray.tasks_a_core(afar)) == (1, 2)


def test_as_many_sources_are_read_at_once_as_the_plan_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = tasks_of(lego_ray.plan(write_zoo(tmp_path / "zoo", 24), rank=2))
    fetch, together = read._fetch, threading.Barrier(12)

    def fetched(source: SourceSlice) -> Any:
        together.wait(PATIENCE)  # broken if fewer than that are under way
        return fetch(source)

    monkeypatch.setattr(read, "_fetch", fetched)
    wide = replace(task, plan=replace(task.plan, ahead=12))
    found = read.extract(wide)
    monkeypatch.undo()
    before = read.extract(task)
    assert found.pools.keys() == before.pools.keys()
    for site, pool in found.pools.items():
        assert torch.equal(pool.rows, before.pools[site].rows)
