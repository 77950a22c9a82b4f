"""Where a merge runs if nothing is asked for: here, or on Ray where its start pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.planning.estimate import LONG, RAY_START_SECONDS, estimated
from lego_ray.planning.task_plans import WORKER_BYTES, ShardPlan, SitePlan, TaskPlan
from lego_ray.runners.auto import AutoRunner
from lego_ray.runners.inline import InlineRunner
from lego_ray.runners.open import make_runner
from lego_ray.runners.ray.runner import RayRunner
from lego_ray.tasks.cut import tasks_of
from tests.zoo import mixed_zoo, weights_of, write_zoo

MIB = 2**20
BUDGET = WORKER_BYTES + 1000 * MIB


def task(seconds: float, mib: int, shards: int = 0) -> TaskPlan:
    """A task of one site that takes so long on one core, and so much more memory than a process."""
    peak = WORKER_BYTES + mib * MIB
    site = SitePlan("m", "linear", 1, 1, (1,), 2, 1, 1, 1, 0, "gram", peak, seconds)
    return TaskPlan("m", (site,), 0, peak, (ShardPlan(1, 1, 0, peak),) * shards)


@pytest.mark.parametrize(
    ("tasks", "runner"),
    [
        ([], "inline"),
        ([task(1, 10)] * 4, "inline"),
        ([task(4 * RAY_START_SECONDS, 10)] * 4, "inline"),  # as fast here, without the start
        ([task(4 * LONG * RAY_START_SECONDS + 1, 10)], "ray"),  # long: losing it would hurt
        ([task(2 * RAY_START_SECONDS, 1000)] * 4, "ray"),  # one at a time here, for want of memory
        ([task(0.2 * RAY_START_SECONDS, 1000)] * 4, "inline"),
        ([task(2 * RAY_START_SECONDS, 1000, shards=4)], "ray"),
    ],
)
def test_ray_is_taken_where_its_start_pays(tasks: list[TaskPlan], runner: str) -> None:
    assert estimated(tasks, BUDGET, n_cores=4).runner == runner


def test_more_work_never_speaks_against_ray() -> None:
    tasks = [task(RAY_START_SECONDS, mib) for mib in (10, 1000, 500, 10, 1000, 10, 1000)] * 3
    paid = [estimated(tasks[:n], BUDGET, n_cores=4).ray_pays for n in range(len(tasks) + 1)]
    assert paid == sorted(paid)
    assert paid[-1]
    large = [task(2 * RAY_START_SECONDS, 1000)] * 4  # small tasks after them leave no more room
    small = [task(RAY_START_SECONDS, 1)] * 32
    assert estimated(large, BUDGET, n_cores=4).ray_pays
    assert estimated([*large, *small], BUDGET, n_cores=4).ray_pays


@pytest.mark.parametrize(
    "asked",
    [{"address": "auto"}, {"workers": 1}, {"gpus": 1.0}, {"max_workers": 2}, {"wait": 1.0}],
)
def test_what_asks_something_of_ray_takes_it(asked: dict[str, Any]) -> None:
    assert isinstance(make_runner("auto", **asked), RayRunner)
    assert isinstance(make_runner("auto"), AutoRunner)


def test_the_plan_says_which_and_the_record_which_it_was(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    plan = lego_ray.plan(zoo, rank=4).as_json()
    assert (plan["runner"], plan["seconds"] >= 0) == ("inline", True)
    record = lego_ray.merge(zoo, rank=4, output=tmp_path / "m")
    assert record.runner == record["runner"] == "inline"
    again = lego_ray.merge(zoo, rank=4, output=tmp_path / "m")
    assert (again.status, again.runner) == ("already published", None)


@pytest.mark.ray
def test_over_its_bound_it_is_ray_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    here = lego_ray.merge(zoo, rank=4, output=tmp_path / "here", name="m")
    monkeypatch.setattr("lego_ray.planning.estimate.RAY_START_SECONDS", 0.0)
    there = lego_ray.merge(zoo, rank=4, output=tmp_path / "there", name="m")
    assert (here.runner, there.runner) == ("inline", "ray")
    assert weights_of(tmp_path / "here") == weights_of(tmp_path / "there")


class Held:
    """A task that hands over no more of its kind than are asked for."""

    def __init__(self, tasks: list[Any]) -> None:
        self.asked = 0
        self._tasks = tasks

    def __iter__(self) -> Any:
        for each in self._tasks:
            self.asked += 1
            yield each


def test_tasks_are_held_no_longer_than_the_choice_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    [small] = tasks_of(lego_ray.plan(zoo, rank=4))
    [site] = (replace(s, seconds=1e9) for s in small.plan.sites[:1])
    large = replace(small, plan=replace(small.plan, sites=(site,)))
    asked: list[int] = []

    class Fake(InlineRunner):
        name = "ray"

        def run(self, tasks: Any) -> Any:
            asked.append(held.asked)
            return super().run([])

    monkeypatch.setattr(AutoRunner, "_local_ray", lambda self: Fake())
    runner = AutoRunner()
    for of in ([small, large, small, small], [small]):
        held = Held(of)
        assert (list(runner.run(held)), runner.name) == ([], "ray")
    assert asked == [2, 0]
    runner.close()
