"""A run that is killed and started again does only what was left, and gives the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import NoAdaptersFound, OutputExists, StrictRefusal
from lego_ray.output.checkpoints import format
from lego_ray.planning.plan import Plan
from lego_ray.runners.inline import InlineRunner
from lego_ray.tasks import solve
from lego_ray.tasks.values import SolveTask, TaskResult
from tests.merging.runs import FOLDER, finish, kept, many_sites, started, until, words
from tests.runners.killing import killing
from tests.zoo import CONFIG, WEIGHTS, Site, files_of, weights_of, write_adapter, write_zoo

TWELVE = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(12))


class Stop(Exception):
    """Ends a run where a test wants it to end."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, bytes]:
    """A zoo, the budget that makes a task of each site, and the weights of its merge."""
    root = tmp_path_factory.mktemp("resume")
    zoo, budget = many_sites(root)
    finish(words(zoo, root / "wanted", budget, "--runner", "inline"))
    return zoo, budget, weights_of(root / "wanted")


@pytest.mark.parametrize(
    ("flags", "in_flight"),
    [
        pytest.param(("--runner", "inline"), 1, id="inline"),
        pytest.param(("--runner", "ray", "--workers", "2"), 2, id="ray", marks=pytest.mark.ray),
    ],
)
def test_a_killed_driver_loses_at_most_the_tasks_in_flight(
    flags: tuple[str, ...], in_flight: int, many: tuple[Path, int, bytes], tmp_path: Path
) -> None:
    zoo, budget, wanted = many
    command = words(zoo, tmp_path / "m", budget, *flags)
    with started(command) as process:
        until(lambda: len(kept(tmp_path / "m")) >= 2, process)
        process.kill()
        process.wait()
    done = len(kept(tmp_path / "m"))
    assert 2 <= done < 40
    assert not (tmp_path / "m" / CONFIG).exists()
    record = finish(command)
    assert record["status"] == "published"
    # Workers keep what they finish, also for a moment after the driver is gone.
    assert done <= record["resumed_sites"] <= done + in_flight
    assert weights_of(tmp_path / "m") == wanted
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == sorted(
        ["README.md", CONFIG, WEIGHTS, "lego_ray_manifest.json"]
    )


@pytest.mark.ray
def test_what_ray_says_of_a_lost_worker_is_logged_and_not_on_stdout(
    many: tuple[Path, int, bytes], tmp_path: Path
) -> None:
    zoo, budget, wanted = many
    flags = ("--runner", "ray", "--workers", "2", "--log", "json")
    with (
        killing("ray::solve", times=2) as killed,
        started(words(zoo, tmp_path / "m", budget, *flags)) as process,
    ):
        out, err = process.communicate()
    assert (process.returncode, len(killed)) == (0, 2), err
    assert json.loads(out)["status"] == "published"  # Ray would print there
    assert weights_of(tmp_path / "m") == wanted
    said = [line for line in map(json.loads, err.splitlines()) if line["event"] == "printed"]
    assert any("worker died" in line["text"] for line in said)
    assert not any("\x1b" in line["text"] for line in said)


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    options = {"rank": 4, "runner": "inline", "n_init": 2, "name": "m", **options}
    return lego_ray.merge(zoo, output=output, **options)


def stopped_after(count: int, zoo: Path, output: Path, **options: Any) -> None:
    """A merge that ends when it has this many results."""
    left = count

    def stop(plan: Plan, result: TaskResult | None) -> None:
        nonlocal left
        left -= result is not None
        if not left:
            raise Stop

    with pytest.raises(Stop):
        merge(zoo, output, progress=stop, **options)


def a_task_a_site(zoo: Path, **options: Any) -> int:
    """The memory budget that makes each site a task."""
    plan = lego_ray.plan(zoo, rank=4, n_init=2, **options)
    return max(site.peak_bytes for task in plan.tasks for site in task.sites)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Four sites, in five adapters."""
    return write_zoo(tmp_path / "zoo")


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sites that tasks solve from now on."""
    names: list[str] = []
    real = solve.solve_extracted

    def noted(task: SolveTask, *given: Any) -> TaskResult:
        names.extend(site.site for site in task.plan.sites)
        return real(task, *given)

    monkeypatch.setattr(solve, "solve_extracted", noted)
    return names


def test_what_is_done_is_not_done_or_read_again(
    zoo: Path, tmp_path: Path, solved: list[str]
) -> None:
    budget = a_task_a_site(zoo)
    whole = merge(zoo, tmp_path / "wanted", memory_budget=budget)
    solved.clear()
    stopped_after(3, zoo, tmp_path / "m", memory_budget=budget)
    assert len(solved) == 3
    record = merge(zoo, tmp_path / "m", memory_budget=budget)
    assert solved == ["layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"]
    assert (whole["resumed_sites"], record["resumed_sites"]) == (0, 3)
    assert 0 < record["bytes_read"] < whole["bytes_read"]
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


def contents(root: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in files_of(root).items()}


@pytest.mark.parametrize("first_whole", [False, True], ids=["finer first", "coarser first"])
def test_the_work_may_be_cut_otherwise_the_second_time(
    first_whole: bool, tmp_path: Path, solved: list[str]
) -> None:
    zoo = write_zoo(tmp_path / "zoo", sites=TWELVE)
    fine = a_task_a_site(zoo)
    coarse = next(
        budget
        for budget in range(fine, 2 * fine, 4096)
        if len(lego_ray.plan(zoo, rank=4, n_init=2, memory_budget=budget).tasks) <= 6
    )
    merge(zoo, tmp_path / "wanted")
    solved.clear()
    first, second = (coarse, fine) if first_whole else (fine, coarse)
    stopped_after(2, zoo, tmp_path / "m", memory_budget=first)
    done = len(solved)
    assert merge(zoo, tmp_path / "m", memory_budget=second)["resumed_sites"] == done
    assert sorted(solved) == sorted(site.name for site in TWELVE)
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_weights_passed_through_are_read_once_and_not_lost(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    head = {"base_model.model.score.weight": torch.ones(3, 5)}
    write_adapter(zoo / "head", seed=9, full_weights=head, modules_to_save=["score"])
    keep: dict[str, Any] = {"full_weights": "keep:head"}
    options = {**keep, "memory_budget": a_task_a_site(zoo, **keep)}
    merge(zoo, tmp_path / "wanted", **options)
    reads: list[str] = []
    real = solve.solve_extracted

    def noted(task: SolveTask, *given: Any) -> TaskResult:
        reads.extend(span.name for source in task.sources for span in source.full_weights)
        return real(task, *given)

    monkeypatch.setattr(solve, "solve_extracted", noted)
    stopped_after(stop, zoo, tmp_path / "m", **options)
    assert merge(zoo, tmp_path / "m", **options)["resumed_sites"] == stop
    assert len(reads) == 1
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


def test_weights_passed_through_are_read_with_the_first_task_left(tmp_path: Path) -> None:
    """On Ray the second task may be done before the first, which they travel with."""
    zoo = write_zoo(tmp_path / "zoo", 2)
    head = {"base_model.model.score.weight": torch.ones(3, 5)}
    write_adapter(zoo / "head", seed=9, full_weights=head, modules_to_save=["score"])
    keep: dict[str, Any] = {"full_weights": "keep:head"}
    options = {**keep, "memory_budget": a_task_a_site(zoo, **keep)}
    merge(zoo, tmp_path / "wanted", **options)
    stopped_after(3, zoo, tmp_path / "m", **options)
    kept(tmp_path / "m")[0].unlink()
    assert merge(zoo, tmp_path / "m", **options)["resumed_sites"] == 2
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


def test_weights_passed_through_that_were_lost_are_read_again(tmp_path: Path) -> None:
    """A file without them beside one with them, of a run that cut its tasks otherwise."""
    zoo = write_zoo(tmp_path / "zoo", 2)
    head = {"base_model.model.score.weight": torch.ones(3, 5)}
    write_adapter(zoo / "head", seed=9, full_weights=head, modules_to_save=["score"])
    options: dict[str, Any] = {"full_weights": "keep:head"}
    budget = a_task_a_site(zoo, **options)
    merge(zoo, tmp_path / "wanted", **options)
    stopped_after(1, zoo, tmp_path / "m", **options)  # one task, with them
    [one] = kept(tmp_path / "m")
    shutil.move(one, tmp_path / "aside")
    stopped_after(1, zoo, tmp_path / "m", memory_budget=budget, **options)
    [first] = kept(tmp_path / "m")
    shutil.copytree(tmp_path / "m", tmp_path / "partly")
    stopped_after(4, zoo, tmp_path / "m", memory_budget=budget, **options)
    shutil.move(tmp_path / "aside", one)
    first.unlink()
    data = bytearray(one.read_bytes())
    data[-1] ^= 1
    one.write_bytes(data)
    assert merge(zoo, tmp_path / "m", **options)["resumed_sites"] == 3
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "other version", "no header"])
def test_a_checkpoint_that_cannot_be_read_is_done_again(
    harm: str, zoo: Path, tmp_path: Path, solved: list[str]
) -> None:
    budget = a_task_a_site(zoo)
    merge(zoo, tmp_path / "wanted", memory_budget=budget)
    stopped_after(3, zoo, tmp_path / "m", memory_budget=budget)
    file = kept(tmp_path / "m")[1]
    data = file.read_bytes()
    harmed = {
        "cut": data[:-1],
        "flipped": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "empty": b"",
        "other version": data.replace(b'\\"version\\": 1', b'\\"version\\": 2'),
        "no header": b"\xff" * 20,
    }[harm]
    assert harmed != data
    file.write_bytes(harmed)
    solved.clear()
    assert merge(zoo, tmp_path / "m", memory_budget=budget)["resumed_sites"] == 2
    assert solved == ["layers.0.v_proj", "layers.1.v_proj"]
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


def test_what_another_torch_made_is_done_again(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = a_task_a_site(zoo)
    with monkeypatch.context() as patch:
        patch.setattr(format, "_made_by", lambda: "lego-ray 0.1.0, torch 1.0.0")
        stopped_after(2, zoo, tmp_path / "m", memory_budget=budget)
    assert merge(zoo, tmp_path / "m", memory_budget=budget)["resumed_sites"] == 0


def test_an_unfinished_run_of_another_plan_is_refused(zoo: Path, tmp_path: Path) -> None:
    budget = a_task_a_site(zoo)
    stopped_after(2, zoo, tmp_path / "m", memory_budget=budget)
    before = files_of(tmp_path)
    with pytest.raises(
        OutputExists, match=r"unfinished run of another plan.*lego at rank 4"
    ) as caught:
        merge(zoo, tmp_path / "m", seed=1, catalog=tmp_path / "catalog")
    assert str(tmp_path / "m" / FOLDER) in caught.value.hint
    assert files_of(tmp_path) == before
    shutil.rmtree(tmp_path / "m" / FOLDER)
    assert merge(zoo, tmp_path / "m", seed=1)["status"] == "published"


MARKED: dict[str, object] = {
    **{
        "checkpoint_version": 1,
        "plan": "x",
        "name": "m",
        "method": "lego",
        "rank": 4,
        "adapters": 3,
    },
    **{"sites": 1, "started_at": "", "catalog": None},
}


@pytest.mark.parametrize(
    "marker",
    [
        b"{",
        b"[]",
        b'{"checkpoint_version": 99, "plan": "x"}',
        json.dumps({**MARKED, "plan": 1}).encode(),
        json.dumps({**MARKED, "work": []}).encode(),
    ],
)
def test_a_marker_of_another_release_is_refused(marker: bytes, zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "m" / FOLDER).mkdir(parents=True)
    (tmp_path / "m" / FOLDER / "run.json").write_bytes(marker)
    with pytest.raises(OutputExists, match="another release"):
        merge(zoo, tmp_path / "m")
    assert not (tmp_path / "m" / CONFIG).exists()


def test_a_run_that_kept_nothing_stands_in_no_ones_way(zoo: Path, tmp_path: Path) -> None:
    def stop(plan: Plan, result: TaskResult | None) -> None:
        raise Stop

    with pytest.raises(Stop):
        merge(zoo, tmp_path / "m", progress=stop)
    assert files_of(tmp_path / "m") == {}
    assert merge(zoo, tmp_path / "m", seed=1)["status"] == "published"


def test_leftovers_are_deleted_by_the_next_run_of_a_published_merge(
    zoo: Path, tmp_path: Path
) -> None:
    stopped_after(1, zoo, tmp_path / "m")
    shutil.copytree(tmp_path / "m" / FOLDER, tmp_path / "aside")
    merge(zoo, tmp_path / "m")
    shutil.copytree(tmp_path / "aside", tmp_path / "m" / FOLDER)
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["ok"]
    assert len(lego_ray.scan(tmp_path / "m")["adapters"]) == 1
    assert merge(zoo, tmp_path / "m")["status"] == "already published"
    assert not (tmp_path / "m" / FOLDER).exists()


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """An adapter that its third site of four shows to be bad, among five.

    The sites are so wide that one fits a task, and two do not with one adapter less either.
    """
    sites = tuple(Site(f"layers.{i}.q_proj", (2000,), 10) for i in range(4))
    file = write_zoo(tmp_path / "zoo", sites=sites) / "a2" / WEIGHTS
    tensors = load_file(file)
    tensors["base_model.model.layers.2.q_proj.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    return file.parent


# Of four tasks a plan, the third shows the adapter to be bad.
@pytest.mark.parametrize(("stop", "resumed"), [(2, 0), (3, 0), (4, 0), (5, 1), (7, 3), (8, 4)])
def test_a_resumed_run_takes_the_same_way_round_a_bad_adapter(
    stop: int, resumed: int, bad: Path, tmp_path: Path, solved: list[str]
) -> None:
    zoo, budget = bad.parent, a_task_a_site(bad.parent)
    whole = merge(zoo, tmp_path / "wanted", memory_budget=budget)
    assert whole["adapters"] == [a for a in whole["adapters"] if a != str(bad)]
    assert len(solved) == 8
    solved.clear()
    stopped_after(stop, zoo, tmp_path / "m", memory_budget=budget)
    record = merge(zoo, tmp_path / "m", memory_budget=budget)
    assert len(solved) == 8
    assert record["resumed_sites"] == resumed
    assert record["merge_id"] == whole["merge_id"]
    assert record["refused"] == whole["refused"]
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


@pytest.mark.parametrize("strict", [False, True])
def test_a_run_that_must_be_asked_for_otherwise_keeps_nothing(
    strict: bool, bad: Path, tmp_path: Path
) -> None:
    """Mending the adapter makes another plan, which must not be refused for it."""
    sources = bad.parent if strict else bad
    with pytest.raises(StrictRefusal if strict else NoAdaptersFound):
        merge(sources, tmp_path / "m", strict=strict)
    assert files_of(tmp_path / "m") == {}


def test_a_keyboard_interrupt_leaves_what_is_done(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = a_task_a_site(zoo)
    real = InlineRunner.run

    def interrupted(self: InlineRunner, tasks: Any) -> Iterator[TaskResult]:
        results = real(self, tasks)
        yield next(results)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(InlineRunner, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merge(zoo, tmp_path / "m", memory_budget=budget)
    marker = json.loads((tmp_path / "m" / FOLDER / "run.json").read_text())
    assert (marker["name"], marker["sites"], marker["tasks"]) == ("m", 4, 4)
    assert merge(zoo, tmp_path / "m", memory_budget=budget)["resumed_sites"] == 1
