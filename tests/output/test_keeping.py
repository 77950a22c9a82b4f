"""A worker keeps what the driver would have kept; where it does not see the output, the driver does."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import lego_ray
from lego_ray.errors import AccessDenied
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.checkpoints.keeping import Keeping
from lego_ray.output.checkpoints.run_folder import MARKER
from lego_ray.planning.plan import Plan
from lego_ray.storage.file import FileStore
from lego_ray.storage.open import open_store
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.joint import joint_task
from lego_ray.tasks.run import kept, run_task
from lego_ray.tasks.values import SolveTask, TaskResult
from tests.merging import runs
from tests.zoo import write_zoo


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    zoo = write_zoo(tmp_path_factory.mktemp("keeping") / "zoo", 3)
    return lego_ray.plan(zoo, rank=4, n_init=2)


@pytest.fixture(scope="module")
def result(plan: Plan) -> TaskResult:
    found = run_task(next(tasks_of(plan)))
    assert isinstance(found, TaskResult)
    return found


@pytest.fixture
def held(plan: Plan, tmp_path: Path) -> Iterator[Checkpoints]:
    """The checkpoints of an output that is marked."""
    checkpoints = Checkpoints(open_store(str(tmp_path / "m")), plan)
    with checkpoints.held(None):
        yield checkpoints


def task_of(plan: Plan, held: Checkpoints) -> SolveTask:
    task = replace(next(tasks_of(plan)), keeper=held.keeper(plan, 1))
    back = pickle.loads(pickle.dumps(task))
    assert isinstance(back, SolveTask)
    return back


def test_what_a_worker_keeps_is_what_the_driver_would_have_kept(
    plan: Plan, result: TaskResult, held: Checkpoints, tmp_path: Path
) -> None:
    found = kept(task_of(plan, held), result)
    assert isinstance(found, TaskResult)
    assert found.kept
    [mine] = runs.kept(tmp_path / "m")
    other = Checkpoints(open_store(str(tmp_path / "other")), plan)
    with other.held(None):
        other.save(plan, 1, [s.site for task in plan.tasks for s in task.sites], result)
    [theirs] = runs.kept(tmp_path / "other")
    assert mine.relative_to(tmp_path / "m") == theirs.relative_to(tmp_path / "other")
    [again] = held.load(plan).results
    [wanted] = other.load(plan).results
    assert [s.plan for s in again.sites] == [s.plan for s in wanted.sites]
    assert again.tensor_hashes == wanted.tensor_hashes == result.tensor_hashes
    assert not again.kept
    assert kept(task_of(plan, held), result) == found  # a task that is run again


@pytest.mark.parametrize("why", ["another folder", "another run", "may not write", "no marker"])
def test_where_a_worker_cannot_keep_it_the_driver_does(
    plan: Plan,
    result: TaskResult,
    held: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    task = task_of(plan, held)
    marker = tmp_path / "m" / MARKER
    if why == "another folder":
        marker.parent.rename(tmp_path / "elsewhere")
    elif why == "another run":
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "started_at": "now"}))
    elif why == "no marker":
        marker.unlink()
    else:

        def refused(store: FileStore, key: str, data: bytes) -> None:
            raise AccessDenied(store.uri, "read only")

        monkeypatch.setattr(FileStore, "create", refused)
    assert kept(task, result) is result
    monkeypatch.undo()
    assert runs.kept(tmp_path / "m") == []


def test_each_part_of_a_shared_task_is_kept_at_its_own_output(
    plan: Plan, held: Checkpoints, tmp_path: Path
) -> None:
    other = Checkpoints(open_store(str(tmp_path / "other")), plan)
    with other.held(None):
        parts = [task_of(plan, held), task_of(plan, other)]
        task = joint_task(0, "both", 0, parts)
        found = kept(task, run_task(task))
        assert [part.kept for part in found.parts] == [True, True]  # type: ignore[union-attr]
        assert len(runs.kept(tmp_path / "m")) == len(runs.kept(tmp_path / "other")) == 1


def test_a_plan_whose_marker_is_gone_has_no_keeper(plan: Plan, tmp_path: Path) -> None:
    assert Checkpoints(open_store(str(tmp_path / "m")), plan).keeper(plan, 1) is None
    assert Keeping.of(plan, 1, open_store(str(tmp_path / "m"))).marker == b""
