"""Ray's part: errors come back typed, lost workers are replaced, a Ray that is up is left alone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

import lego_ray
from lego_ray.catalog.msu_files import MsuFiles
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import (
    BadInput,
    ClusterTooSmall,
    NonFiniteWeights,
    RunFailed,
    SourceChanged,
    VersionMismatch,
)
from lego_ray.merging import lineage
from lego_ray.output.checkpoints import keeping
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.planning.plan import Plan
from lego_ray.runners.ray import runner as ray_runner
from lego_ray.runners.ray import waiting
from lego_ray.runners.ray.drift import versions_here
from lego_ray.runners.ray.room import Bundle
from lego_ray.runners.ray.runner import RayRunner
from lego_ray.tasks import run, solve
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.values import SolveTask, TaskResult
from tests.runners.spread import SITES, budget_for, write_wide_zoo
from tests.zoo import Site, files_of, weights_of, write_zoo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("ray") / "zoo", 4)


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    options = {"rank": 4, "runner": "ray", "n_init": 2, **options}
    return lego_ray.merge(zoo, output=output, **options)


def test_workers_keep_what_they_finish_and_write_its_lineage(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(zoo, tmp_path / "twin", runner="inline", name="m", catalog=tmp_path / "catalog")

    def saved(*given: object) -> None:
        raise AssertionError("the driver saved a checkpoint")

    def added(files: MsuFiles, sites: Iterable[object]) -> None:
        assert list(sites) == []

    monkeypatch.setattr(Checkpoints, "save", saved)
    monkeypatch.setattr(MsuFiles, "add", added)
    monkeypatch.setattr(lineage, "LARGE", 0)  # as one of millions of MSUs
    monkeypatch.setattr(keeping, "MANY", 0)
    merge(zoo, tmp_path / "m", name="m", catalog=tmp_path / "other")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "twin")
    assert not (tmp_path / "m/.lego-ray").exists()
    mine, theirs = (
        sorted(map(str, Catalog(str(tmp_path / name)).read("msus").to_pylist()))
        for name in ("other", "catalog")
    )
    assert mine
    assert mine == theirs


def many_tasks(tmp_path: Path, count: int) -> Plan:
    """A plan of a task a site."""
    sites = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(count))
    zoo = write_zoo(tmp_path / "many", 2, sites=sites)
    whole = lego_ray.plan(zoo, rank=2)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    plan = lego_ray.plan(zoo, rank=2, memory_budget=budget)
    assert len(plan.tasks) == count
    return plan


def solves_with(monkeypatch: pytest.MonkeyPatch, task: Callable[[SolveTask], TaskResult]) -> None:
    """Runs `task` on the workers in the place of run_task."""
    monkeypatch.setattr(run, "run_task", lambda given, gpus: task(given))


def on_the_worker(task: SolveTask) -> TaskResult:
    """solve_task as the worker has it, which nothing was put in the place of."""
    return solve.solve_task(task)


def test_a_ray_that_is_up_is_used_and_left_running(zoo: Path, tmp_path: Path) -> None:
    session = ray.get_runtime_context().get_node_id()
    merge(zoo, tmp_path / "m", address="127.0.0.1:1")
    assert ray.is_initialized()
    assert ray.get_runtime_context().get_node_id() == session


@pytest.mark.parametrize("runner", ["ray", "inline"])
def test_a_source_deleted_after_planning_is_named(runner: str, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)

    def delete(plan: Plan, result: TaskResult | None) -> None:
        if result is None:
            shutil.rmtree(zoo / "a1")

    flags = {"runner": runner, "progress": delete, "catalog": tmp_path / "catalog"}
    with pytest.raises(SourceChanged, match="a1") as caught:
        merge(zoo, tmp_path / "m", strict=True, **flags)
    assert caught.value.exit_code == 1
    assert files_of(tmp_path / "m") == {}
    assert files_of(tmp_path / "catalog") == {}


def test_an_error_of_ours_keeps_its_type_and_words(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(task: SolveTask) -> TaskResult:
        raise NonFiniteWeights("/zoo/a", "it holds NaN", "Leave it out.")

    solves_with(monkeypatch, refuses)
    with pytest.raises(NonFiniteWeights) as caught:
        merge(zoo, tmp_path / "m")
    assert (caught.value.where, caught.value.hint) == ("/zoo/a", "Leave it out.")
    assert "in refuses" in str(caught.value.__cause__), "the worker's trace, for --debug"


def test_an_error_not_foreseen_is_a_failed_run_that_names_the_task(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(task: SolveTask) -> TaskResult:
        raise ZeroDivisionError("by nothing")

    solves_with(monkeypatch, breaks)
    with pytest.raises(
        RunFailed, match=r"task m / layers\.0.* \[1/1\]: ZeroDivisionError: by nothing"
    ) as caught:
        merge(zoo, tmp_path / "m")
    assert caught.value.exit_code == 1
    assert files_of(tmp_path / "m") == {}


def test_a_worker_killed_once_changes_no_bit(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"

    def dies_once(task: SolveTask) -> TaskResult:
        if not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return on_the_worker(task)

    with monkeypatch.context() as patch:
        solves_with(patch, dies_once)
        merge(zoo, tmp_path / "m")
    assert killed.exists()
    merge(zoo, tmp_path / "inline", runner="inline")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "inline")


def test_a_worker_killed_each_time_fails_the_run(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(task: SolveTask) -> TaskResult:
        os.kill(os.getpid(), signal.SIGKILL)
        return on_the_worker(task)

    solves_with(monkeypatch, dies)
    monkeypatch.setattr(ray_runner, "TASK_RETRIES", 1)
    with pytest.raises(RunFailed, match="worker was lost 2 times"):
        merge(zoo, tmp_path / "m")
    assert files_of(tmp_path / "m") == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_tasks_are_taken_than_workers_can_run(workers: int, tmp_path: Path) -> None:
    plan = many_tasks(tmp_path, 6)
    taken = 0

    def counted() -> Iterator[SolveTask]:
        nonlocal taken
        for task in tasks_of(plan):
            taken += 1
            yield task

    runner = RayRunner(address="local", workers=workers)
    for done, result in enumerate(runner.run(counted())):
        assert taken <= done + workers
        assert result.sites
    assert done == 5


def test_results_are_those_of_the_inline_runner(tmp_path: Path) -> None:
    plan = many_tasks(tmp_path, 4)
    runner = RayRunner(address="local", workers=2)
    got = {result.index: result for result in runner.run(tasks_of(plan))}
    for task in tasks_of(plan):
        wanted, result = solve.solve_task(task), got[task.index]
        assert result.tensor_hashes == wanted.tensor_hashes
        assert result.bytes_read == wanted.bytes_read
        for left, right in zip(result.sites, wanted.sites, strict=True):
            assert left.a.tobytes() == right.a.tobytes()
            assert left.b.tobytes() == right.b.tobytes()
            assert left.clusters is not None
            assert right.clusters is not None
            assert left.clusters.tolist() == right.clusters.tolist()
            assert left.inertia == right.inertia


@pytest.mark.timeout(60)
def test_a_task_that_outgrows_every_node_runs_alone(tmp_path: Path) -> None:
    """A plan estimates from above; Ray would wait for ever for a node of that size."""
    plan = many_tasks(tmp_path, 2)
    larger = 2 * int(ray.cluster_resources()["memory"])
    tasks = [replace(t, plan=replace(t.plan, peak_bytes=larger)) for t in tasks_of(plan)]
    assert len(list(RayRunner(address="local", workers=2).run(tasks))) == 2


def test_tasks_that_do_not_fit_a_node_together_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = many_tasks(tmp_path, 3)
    share = int(0.6 * ray.cluster_resources()["memory"])
    tasks = [replace(t, plan=replace(t.plan, peak_bytes=share)) for t in tasks_of(plan)]
    log = tmp_path / "log"

    def logged(task: SolveTask) -> TaskResult:
        with log.open("a") as file:
            file.write("start ")
            file.flush()
            time.sleep(0.3)
            result = on_the_worker(task)
            file.write("end ")
        return result

    solves_with(monkeypatch, logged)
    assert len(list(RayRunner(address="local", workers=2).run(tasks))) == 3
    assert log.read_text().split() == ["start", "end"] * 3


def test_a_node_with_other_packages_is_refused_by_name(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a driver of another release, the worker is the node that differs."""
    other = {**versions_here(), "torch": "1.0"}
    for module in ("runner", "teams"):
        monkeypatch.setattr(f"lego_ray.runners.ray.{module}.versions_here", lambda: other)
    with pytest.raises(VersionMismatch, match=r"node .* \(torch .* there, 1.0 here\)"):
        merge(zoo, tmp_path / "m")
    assert files_of(tmp_path / "m") == {}
    wide = write_wide_zoo(tmp_path / "wide", sites=SITES[:1])
    with pytest.raises(VersionMismatch, match=r"node .* \(torch .* there, 1.0 here\)"):
        merge(wide, tmp_path / "m", memory_budget=budget_for(wide, 3))
    assert files_of(tmp_path / "m") == {}


def test_what_is_waited_for_is_said_and_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_NOTE_SECONDS", 0.0)
    caplog.set_level("WARNING", logger="lego_ray")
    lacking: list[Bundle] = [{"CPU": 100.0, "memory": 2.0**28}]
    waiting.Wait(1000.0, joined=True).look("task m / layers.0 [1/2]", "abc", lacking)
    [said] = caplog.messages
    assert "needs=100 CPUs and 0.25 GiB cluster=" in said
    assert "lacks=100 CPUs needed, 2 CPUs there" in said
    with pytest.raises(ClusterTooSmall, match=r"layers.0.*\(100 CPUs needed, 2 CPUs there\)"):
        waiting.Wait(0.0, joined=True).look("task m / layers.0 [1/2]", "abc", lacking)
    waiting.Wait(0.0, joined=True).look("task", "abc", [{"CPU": 1.0, "memory": 1.0}])


def test_a_cluster_that_others_use_is_waited_for_and_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(waiting, "FIRST_NOTE_SECONDS", 0.0)
    caplog.set_level("WARNING", logger="lego_ray")
    wait = waiting.Wait(0.0, joined=True)
    mine: list[Bundle] = [{"CPU": 1.0, "memory": 2.0**28}]
    wait.look("task m", "abc", mine)
    assert not caplog.messages  # it has room

    def held(end: str) -> None:
        while not Path(end).exists():
            time.sleep(0.02)

    for memory, said in ((0, 1), (2**28, 0)):  # the second may be a task of the run itself
        end = tmp_path / f"end-{memory}"
        task = ray.remote(held).options(num_cpus=2, memory=memory).remote(str(end))
        until = time.monotonic() + 60
        while time.monotonic() < until:  # also until what the task before it held is free
            free = ray.available_resources()
            reserved = ray.cluster_resources()["memory"] - free.get("memory", 0)
            if not free.get("CPU", 0) and reserved == memory:
                break
            time.sleep(0.02)
        wait.look("task m", "abc", mine)
        end.touch()
        ray.get(task)
        assert len(caplog.messages) == said
        caplog.clear()
        wait.moved()


def test_a_task_has_its_merge_and_part_in_its_name(zoo: Path) -> None:
    plan = lego_ray.plan(zoo, rank=2, name="m3")
    assert [task.title for task in tasks_of(plan)] == [f"m3 / {plan.tasks[0].name} [1/1]"]


def test_workers_below_one_are_bad_input(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--workers"):
        merge(zoo, tmp_path / "m", workers=0)
    assert not (tmp_path / "m").exists()


def test_workers_have_the_settings_of_the_driver_and_not_its_keys(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("AWS_ENDPOINT_URL", "NO_PROXY", "HTTP_PROXY", "AWS_SECRET_ACCESS_KEY")

    def tell(task: SolveTask) -> TaskResult:
        raise RunFailed("a worker", " ".join(str(os.environ.get(name)) for name in names))

    tasks = [*tasks_of(lego_ray.plan(zoo, rank=2))][:1]
    solves_with(monkeypatch, tell)
    for endpoint in ("http://store.example:1", "http://store.example:2"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("NO_PROXY", "store.example")
        monkeypatch.setenv("HTTP_PROXY", "http://user:password@proxy.example")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with pytest.raises(RunFailed, match=f"{endpoint} store.example None None"):
            list(RayRunner().run(tasks))
    for name in names:
        monkeypatch.delenv(name)
    with pytest.raises(RunFailed, match="None None None None"):
        list(RayRunner().run(tasks))
