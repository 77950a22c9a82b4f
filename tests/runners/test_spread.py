"""A pool in shards, here or on Ray, gives the bytes of the pool in one worker, whoever dies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import ClusterTooSmall, NoAdaptersFound, RunFailed, SourceChanged
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe
from lego_ray.runners.ray.runner import RayRunner
from lego_ray.tasks.cut import shard_tasks, tasks_of
from lego_ray.tasks.values import TaskResult
from tests.merging.runs import until
from tests.runners.killing import killing
from tests.runners.spread import SITES, budget_for, budget_of, shards_of, write_wide_zoo
from tests.zoo import WEIGHTS, files_of, weights_of

GEOMETRIES: list[dict[str, Any]] = [{}, {"normalize": True}, {"basis": "svd", "align_signs": True}]


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    options = {"rank": 4, "runner": "inline", "n_init": 3, **options}
    return lego_ray.merge(zoo, output=output, **options)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_zoo(tmp_path_factory.mktemp("wide") / "zoo")


@pytest.fixture(scope="module")
def whole(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merge with every site in one worker; the others must equal it."""
    output = tmp_path_factory.mktemp("whole") / "m"
    merge(zoo, output, catalog=output.parent / "catalog")
    return output


@pytest.fixture(scope="module")
def of_one_site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A zoo of one site, and its merge in one worker."""
    root = tmp_path_factory.mktemp("one-site")
    zoo = write_wide_zoo(root / "zoo", sites=SITES[:1])
    merge(zoo, root / "m")
    return zoo, root / "m"


def test_blocks_cover_the_adapters_once_in_order(zoo: Path) -> None:
    plan = lego_ray.plan(zoo, rank=4, memory_budget=budget_for(zoo, 3))
    assert max(shards_of(plan).values()) >= 3
    for task in tasks_of(plan):
        if task.plan.shards:
            parts = shard_tasks(task)
            assert [s for part in parts for s in part.sources] == list(task.sources)
            rows = [sum(f.rank for s in part.sources for f in s.factors) for part in parts]
            assert rows == [shard.n_msus for shard in task.plan.shards]


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_shards_in_this_process_give_the_same_bytes(
    zoo: Path, tmp_path: Path, shards: int, options: dict[str, Any]
) -> None:
    merge(zoo, tmp_path / "whole", **options)
    budget = budget_for(zoo, shards, **options)
    merge(zoo, tmp_path / "spread", memory_budget=budget, **options)
    assert weights_of(tmp_path / "spread") == weights_of(tmp_path / "whole")


def test_the_catalog_says_the_same_of_both(zoo: Path, whole: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog"
    merge(zoo, tmp_path / "m", memory_budget=budget_for(zoo, 3), catalog=catalog)
    query = "SELECT * FROM msus ORDER BY site, adapter_id, rank_index"
    ours = lego_ray.catalog.sql(catalog, query)
    theirs = lego_ray.catalog.sql(whole.parent / "catalog", query)
    for column in ("site", "adapter_id", "rank_index", "cluster"):
        assert ours[column].to_pylist() == theirs[column].to_pylist()
    assert np.allclose(ours["distance"].to_numpy(), theirs["distance"].to_numpy(), rtol=1e-6)
    query = "SELECT inertia, relative_error FROM merge_sites ORDER BY site"
    ours = lego_ray.catalog.sql(catalog, query)
    theirs = lego_ray.catalog.sql(whole.parent / "catalog", query)
    for column in ("inertia", "relative_error"):
        assert np.allclose(ours[column].to_numpy(), theirs[column].to_numpy(), rtol=1e-9)


MIXING = [("svd", 8), ("ties", 41), ("tsv", 14)]


def lineage_by(method: str, rank: int, zoo: Path, root: Path, **options: Any) -> list[Any]:
    lego_ray.merge(zoo, rank=rank, method=method, output=root / "m", catalog=root / "c", **options)
    table = lego_ray.catalog.sql(root / "c", "SELECT * FROM msus ORDER BY ALL")
    rows: list[Any] = table.to_pylist()
    assert rows
    return rows


@pytest.mark.parametrize(("method", "rank"), MIXING)
def test_shards_have_the_lineage_of_the_whole(
    zoo: Path, tmp_path: Path, method: str, rank: int
) -> None:
    """Of methods that mix MSUs; to the last bit, though products of parts are rounded otherwise."""
    budget = budget_of(Recipe(name="m", rank=rank, method=method), zoo, 3)
    whole = lineage_by(method, rank, zoo, tmp_path / "whole", runner="inline")
    options = {"runner": "inline", "memory_budget": budget}
    assert lineage_by(method, rank, zoo, tmp_path / "spread", **options) == whole
    assert weights_of(tmp_path / "spread" / "m") == weights_of(tmp_path / "whole" / "m")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_each_shard_reads_only_its_own_bytes(zoo: Path) -> None:
    plan = lego_ray.plan(zoo, rank=4, memory_budget=budget_for(zoo, 3))
    for result in RayRunner(workers=2).run(tasks_of(plan)):
        assert result.bytes_read == plan.tasks[result.index].read_bytes


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_nothing_is_left_on_the_cluster(zoo: Path, tmp_path: Path) -> None:
    from ray.util import placement_group_table

    merge(zoo, tmp_path / "m", runner="ray", memory_budget=budget_for(zoo, 3))
    states = {group["state"] for group in placement_group_table().values()}
    assert states <= {"REMOVED"}
    memory = ray.cluster_resources()["memory"]
    # Actors end a moment after they are told to.
    until(lambda: ray.available_resources().get("memory") == memory)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
class TestOnRay:
    """Of one site, so of one team: each process of another takes seconds to start."""

    @pytest.fixture
    def zoo(self, of_one_site: tuple[Path, Path]) -> Path:
        return of_one_site[0]

    @pytest.fixture
    def whole(self, of_one_site: tuple[Path, Path]) -> Path:
        return of_one_site[1]

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_actors_give_the_same_bytes(
        self, zoo: Path, whole: Path, tmp_path: Path, workers: int
    ) -> None:
        budget = budget_for(zoo, 3)
        merge(zoo, tmp_path / "m", runner="ray", workers=workers, memory_budget=budget)
        assert weights_of(tmp_path / "m") == weights_of(whole)

    @pytest.mark.parametrize("options", GEOMETRIES[1:], ids=str)
    def test_so_do_the_methods_options(
        self, zoo: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        budget = budget_for(zoo, 2, **options)
        options = {**options, "output_scale": "sum-fit"}  # which asks the shards once more
        merge(zoo, tmp_path / "whole", **options)
        merge(zoo, tmp_path / "m", runner="ray", memory_budget=budget, **options)
        assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")

    def test_they_have_the_same_lineage(self, zoo: Path, tmp_path: Path) -> None:
        budget = budget_of(Recipe(name="m", rank=14, method="tsv"), zoo, 3)
        whole = lineage_by("tsv", 14, zoo, tmp_path / "whole", runner="inline")
        options = {"runner": "ray", "workers": 2, "memory_budget": budget}
        assert lineage_by("tsv", 14, zoo, tmp_path / "spread", **options) == whole

    @pytest.mark.parametrize(("actor", "times"), [("ShardActor", 2), ("SiteActor", 1)])
    def test_a_lost_actor_changes_no_bit(
        self, zoo: Path, tmp_path: Path, actor: str, times: int
    ) -> None:
        # Work for long enough to be killed in the middle of it.
        many: dict[str, Any] = {"n_init": 30, "tol": 0.0}
        budget = budget_for(zoo, 3, **many)
        with killing(f"ray::{actor}.", times=times) as killed:
            merge(zoo, tmp_path / "m", runner="ray", memory_budget=budget, **many)
        assert len(killed) == times
        merge(zoo, tmp_path / "whole", **many)
        assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")

    def test_a_shard_lost_each_time_fails_the_run(
        self, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lego_ray.runners.ray.runner.TASK_RETRIES", 1)
        with (
            killing("ray::ShardActor", times=1000),
            pytest.raises(RunFailed, match="worker was lost too often"),
        ):
            merge(zoo, tmp_path / "m", runner="ray", memory_budget=budget_for(zoo, 3))
        assert not (tmp_path / "m" / "adapter_config.json").exists()

    def test_a_cluster_too_small_is_said_so(self, zoo: Path, tmp_path: Path) -> None:
        budget = budget_for(zoo, 3)
        plan = lego_ray.plan(zoo, rank=4, memory_budget=budget)
        room = int(ray.cluster_resources()["memory"])
        [task] = tasks_of(plan)
        shards = tuple(replace(s, peak_bytes=room // 2 + 1) for s in task.plan.shards)
        large = replace(task, plan=replace(task.plan, shards=shards))
        with pytest.raises(
            ClusterTooSmall,
            match=r"needs .* at once, up to .* GiB in one \(.* GiB needed, .* there\)",
        ):
            list(RayRunner(workers=2).run([large]))

    def test_a_source_that_is_gone_is_named(self, tmp_path: Path) -> None:
        zoo = write_wide_zoo(tmp_path / "zoo", sites=SITES[:1])
        budget = budget_for(zoo, 3)

        def delete(plan: Plan, result: TaskResult | None) -> None:
            if result is None:
                (zoo / "a01" / WEIGHTS).unlink()

        flags = {"memory_budget": budget, "progress": delete, "strict": True}
        with pytest.raises(SourceChanged, match="a01"):
            merge(zoo, tmp_path / "m", runner="ray", **flags)


@pytest.mark.parametrize("runner", ["inline", "ray"])
def test_weights_that_are_not_finite_are_set_aside_in_shards_too(
    runner: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if runner == "ray":
        request.getfixturevalue("local_ray")
    sites = SITES[:1] if runner == "ray" else SITES
    zoo = write_wide_zoo(tmp_path / "zoo", 13, sites)
    budget = budget_for(zoo, 3)
    weights = zoo / "a12" / WEIGHTS
    tensors = load_file(weights)
    for tensor in tensors.values():
        tensor[0, 0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    record = merge(zoo, tmp_path / "m", runner=runner, memory_budget=budget)
    assert [r["adapter"] for r in record["refused"]] == [str(zoo / "a12")]
    merge(write_wide_zoo(tmp_path / "others", sites=sites), tmp_path / "wanted")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "wanted")


def test_a_zoo_of_nothing_but_bad_weights_is_no_adapters(tmp_path: Path) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    budget = budget_for(zoo, 3)
    for weights in zoo.glob(f"*/{WEIGHTS}"):
        tensors = {k: v * float("inf") for k, v in load_file(weights).items()}
        save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(NoAdaptersFound):
        merge(zoo, tmp_path / "m", memory_budget=budget)
    assert "adapter_config.json" not in files_of(tmp_path / "m")
