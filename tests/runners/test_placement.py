"""Work that waits for a placement group, or is bound to one, says what Ray says of that group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import lego_ray
from lego_ray.errors import ClusterTooSmall
from lego_ray.runners.ray import waiting
from lego_ray.runners.ray.placement import bundles_in_words, is_created, state_of
from lego_ray.runners.ray.room import Bundle
from lego_ray.runners.ray.runner import RayRunner
from lego_ray.tasks.cut import tasks_of
from tests.merging.runs import until
from tests.runners.spread import SITES, budget_for, write_wide_zoo
from tests.zoo import weights_of, write_zoo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

MIB = 2.0**20
NO_ROOM = "pending, the nodes that are up have no room for all of it now; it asks for"


@contextmanager
def grouped(*bundles: Bundle) -> Iterator[PlacementGroup]:
    group = placement_group(list(bundles))
    try:
        yield group
    finally:
        remove_placement_group(group)


def test_bundles_that_are_alike_are_counted() -> None:
    shard, owner = {"memory": 256 * MIB, "CPU": 1.0}, {"CPU": 0.001, "memory": 0.0}
    said = bundles_in_words([shard, shard, owner])
    assert said == "2 x (1 CPU and 0.25 GiB), 1 x (0.001 CPUs)"


def test_the_state_of_a_group_is_what_ray_says() -> None:
    with grouped({"CPU": 2.0}) as first:
        assert first.wait(60)
        assert is_created(first)
        assert state_of(first) == "created; it asks for 1 x (2 CPUs)"
        with grouped({"CPU": 1.0, "memory": 256 * MIB}) as second:
            until(lambda: state_of(second) == f"{NO_ROOM} 1 x (1 CPU and 0.25 GiB)")
            assert not is_created(second)
    until(lambda: state_of(first).startswith("removed"))
    with grouped({"CPU": 100.0}) as never:
        wanted = "pending, infeasible on the nodes that are up; it asks for 1 x (100 CPUs)"
        until(lambda: state_of(never) == wanted)


def test_a_wait_for_a_group_is_said_with_its_state(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_NOTE_SECONDS", 0.0)
    caplog.set_level("WARNING", logger="lego_ray")
    # Others reserve memory too, so that the totals alone would not tell.
    mine: list[Bundle] = [{"CPU": 1.0, "memory": 64 * MIB}]
    with grouped({"CPU": 2.0, "memory": 64 * MIB}) as theirs:
        assert theirs.wait(60)
        with grouped(*mine) as group:
            until(lambda: "no room" in state_of(group))
            waiting.Wait(1000.0, joined=True).look("task m", "abc", mine, group)
    [said] = caplog.messages
    assert "needs=1 CPU and 0.06 GiB cluster=0 of 2 CPUs" in said
    assert f"placement_group={NO_ROOM} 1 x (1 CPU and" in said


def test_a_site_that_no_node_came_for_names_its_group(tmp_path: Path) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo", sites=SITES[:1])
    [task] = tasks_of(lego_ray.plan(zoo, rank=4, memory_budget=budget_for(zoo, 3)))
    room = int(ray.cluster_resources()["memory"])
    shards = tuple(replace(shard, peak_bytes=room // 2 + 1) for shard in task.plan.shards)
    large = replace(task, plan=replace(task.plan, shards=shards))
    wanted = rf"no node came .* GiB there; its placement group is {NO_ROOM} {len(shards)} x \("
    with pytest.raises(ClusterTooSmall, match=wanted):
        list(RayRunner(address="auto", wait=1.0).run([large]))


def merged_within(bundles: list[Bundle], zoo: Path, output: Path) -> dict[str, Any]:
    """The record of a merge in a task of Ray whose placement group has all that the merge starts."""

    def merge() -> dict[str, Any]:
        record: dict[str, Any] = lego_ray.merge(
            zoo, rank=4, output=output, runner="ray", address="auto", n_init=2
        )
        return record

    with grouped(*bundles) as group:
        place = PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        task = ray.remote(merge).options(num_cpus=0.5, scheduling_strategy=place)
        done: dict[str, Any] = ray.get(task.remote())
        return done


def test_a_merge_in_a_group_of_its_caller_runs_there_or_names_it(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    outer: Bundle = {"CPU": 0.5}
    with pytest.raises(ray.exceptions.RayTaskError, match=r"no bundle of the placement group") as e:
        merged_within([outer, {"CPU": 1.0}], zoo, tmp_path / "m")
    cause = e.value.cause
    assert isinstance(cause, ClusterTooSmall)
    assert "created; it asks for 1 x (0.5 CPUs), 1 x (1 CPU)" in cause.problem
    assert "placement_group_capture_child_tasks" in cause.hint
    merged_within([outer, {"CPU": 1.0, "memory": 512 * MIB}], zoo, tmp_path / "m")
    lego_ray.merge(zoo, rank=4, output=tmp_path / "whole", runner="inline", n_init=2)
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")
