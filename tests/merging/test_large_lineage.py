"""The lineage of a large merge is written while it runs: the same rows as of a small one, once each."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.catalog.changes import Files
from lego_ray.catalog.msu_files import MsuFiles
from lego_ray.catalog.tables import Catalog
from lego_ray.merging import lineage
from lego_ray.output.checkpoints import keeping
from lego_ray.planning.plan import Plan
from lego_ray.runners.inline import InlineRunner
from lego_ray.tasks.run import kept
from lego_ray.tasks.values import TaskResult
from tests.zoo import files_of, write_zoo


class Stop(Exception):
    """Ends a run where a test wants it to end."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("large") / "zoo")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes every merge a large one, with a file a site; the numbers of files it added."""
    monkeypatch.setattr(lineage, "LARGE", 0)
    monkeypatch.setattr(lineage, "MsuFiles", lambda *given: MsuFiles(*given, file_rows=1))
    added: list[int] = []
    real = Files.apply

    def counted(self: Files, handle: Any) -> None:
        added.append(len(self.files))
        real(self, handle)

    monkeypatch.setattr(Files, "apply", counted)
    return added


def merge(zoo: Path, root: Path, method: str = "lego", **options: Any) -> Path:
    """A merge in a catalog, each site a task; its output."""
    plan = lego_ray.plan(zoo, rank=4, method=method)
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    lego_ray.merge(
        zoo,
        rank=4,
        method=method,
        name="m",
        output=root / "m",
        catalog=root / "catalog",
        runner="inline",
        memory_budget=budget,
        **options,
    )
    return root / "m"


def bytes_of(output: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in files_of(output).items()}


def rows(root: Path) -> list[dict[str, Any]]:
    found = Catalog(str(root / "catalog")).read("msus").to_pylist()
    return sorted(found, key=lambda row: tuple(map(str, row.values())))


@pytest.mark.parametrize("method", ["lego", "svd"])
def test_rows_and_bytes_are_those_of_a_small_merge(
    zoo: Path, tmp_path: Path, method: str, request: pytest.FixtureRequest
) -> None:
    wanted = merge(zoo, tmp_path / "small", method)
    added: list[int] = request.getfixturevalue("large")
    assert bytes_of(merge(zoo, tmp_path / "large", method)) == bytes_of(wanted)
    assert max(added) > 1
    assert rows(tmp_path / "large") == rows(tmp_path / "small")


def test_a_run_that_goes_on_has_each_row_once(zoo: Path, tmp_path: Path, large: list[int]) -> None:
    def stop(plan: Plan, result: TaskResult | None) -> None:
        if result is not None and result.sites:
            raise Stop

    with pytest.raises(Stop):
        merge(zoo, tmp_path, progress=stop)
    merge(zoo, tmp_path)
    merge(zoo, tmp_path / "other")
    assert rows(tmp_path) == rows(tmp_path / "other")
    before = large.copy()
    merge(zoo, tmp_path)
    assert large == before


def test_a_run_that_was_killed_while_it_published_records_the_rows_of_its_manifest(
    zoo: Path, tmp_path: Path, large: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(zoo, tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(Files, "apply", lambda self, handle: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            merge(zoo, tmp_path)
    merge(zoo, tmp_path)
    assert rows(tmp_path) == rows(tmp_path / "other")


def test_an_updatable_merge_keeps_its_lineage_for_its_sums(
    zoo: Path, tmp_path: Path, large: list[int]
) -> None:
    del large
    merge(zoo, tmp_path, updatable=True)
    assert rows(tmp_path)
    assert lego_ray.verify(tmp_path / "m")["ok"]


def test_rows_that_workers_write_are_those_of_the_serial_twin(
    zoo: Path, tmp_path: Path, large: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of workers is done here; what one of them cannot write the driver writes."""
    monkeypatch.setattr(keeping, "MANY", 0)
    merge(zoo, tmp_path / "twin")
    written: list[int] = []
    real = InlineRunner.run

    def run(self: InlineRunner, tasks: Iterable[Any]) -> Iterator[Any]:
        for number, task in enumerate(tasks):
            if number == 1:  # as on a machine that has another catalog there
                task = replace(
                    task, keeper=replace(task.keeper, msus=replace(task.keeper.msus, table="no"))
                )
            [found] = real(self, [task])
            found = pickle.loads(pickle.dumps(kept(task, found)))
            written.append(len(found.rows))
            yield found

    monkeypatch.setattr(InlineRunner, "run", run)
    merge(zoo, tmp_path / "workers")
    assert sorted(written) == [0, 1, 1, 1]
    assert max(large) == 4
    assert rows(tmp_path / "workers") == rows(tmp_path / "twin")
    assert bytes_of(tmp_path / "workers/m") == bytes_of(tmp_path / "twin/m")
