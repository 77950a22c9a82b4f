"""What would count twice in a merge, or was to be left out and was not, is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import NoAdaptersFound
from tests.zoo import write_adapter, write_zoo


def plan(place: Path, **options: Any) -> lego_ray.Plan:
    return lego_ray.plan(place, rank=4, **options)


def names(found: lego_ray.Plan, root: Path) -> list[str]:
    return sorted(str(Path(adapter.uri).relative_to(root)) for adapter in found.adapters)


@pytest.mark.parametrize(
    ("folders", "taken"),
    [
        # transformers' hub_strategy="checkpoint" and "end"
        (("run", "run/last-checkpoint"), "run"),
        (("run", "run/best_adapter", "run/checkpoint-7"), "run"),
        # callbacks of PEFT's first years
        (("run", "run/checkpoint-1/adapter_model", "run/checkpoint-2/adapter_model"), "run"),
        (("run/checkpoint-1/adapter_model", "run/checkpoint-2/adapter_model"), ""),
        (("run/adapter_model", "run/checkpoint-2/adapter_model"), "run/adapter_model"),
    ],
)
def test_a_run_counts_once(tmp_path: Path, folders: tuple[str, ...], taken: str) -> None:
    for seed, folder in enumerate(folders):
        write_adapter(tmp_path / "zoo" / folder, seed=seed)
    write_adapter(tmp_path / "zoo" / "other", seed=77)
    found = plan(tmp_path / "zoo")
    assert names(found, tmp_path / "zoo") == sorted(["other", taken or folders[-1]])
    assert [len(each.checkpoints) for each in found.passed_over] == [len(folders) - 1]


def test_named_adapters_of_a_run_are_no_checkpoints_of_the_unnamed_one(tmp_path: Path) -> None:
    for seed, folder in enumerate(("run", "run/checkpoint-1", "run/checkpoint-1/reference")):
        write_adapter(tmp_path / "zoo" / folder, seed=seed)
    found = plan(tmp_path / "zoo")
    assert names(found, tmp_path / "zoo") == ["run", "run/checkpoint-1/reference"]


def test_a_merge_among_the_sources_is_warned_of(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    lego_ray.merge(zoo, rank=4, output=zoo / "all", runner="inline")
    told = "zoo/all is a merge that lego-ray made"
    assert told in " ".join(plan(zoo).warnings)
    assert told not in " ".join(plan(zoo, exclude=["all"]).warnings)
    # Named by itself, and as the output, it is what is meant.
    assert told not in " ".join(lego_ray.plan([zoo / "a0", zoo / "all"], rank=4).warnings)
    assert told not in " ".join(plan(zoo, output=zoo / "all").warnings)


def test_snapshots_of_one_repository_are_warned_of(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    for seed, (repository, commit) in enumerate((("a", "0"), ("a", "1"), ("b", "0"))):
        write_adapter(hub / f"models--acme--{repository}" / "snapshots" / (commit * 40), seed=seed)
    [told] = [each for each in plan(hub).warnings if "snapshots of one repository" in each]
    assert told.count("models--acme--a") == 2
    assert "models--acme--b" not in told
    shutil.rmtree(hub / "models--acme--a" / "snapshots" / ("0" * 40))
    assert not [each for each in plan(hub).warnings if "snapshots" in each]


def test_a_pattern_that_leaves_nothing_out_is_warned_of(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    for pattern, hits in (("a-1", False), ("a1", True), ("a[12]", True), ("*/a1", True)):
        told = [each for each in plan(zoo, exclude=[pattern, "a2"]).warnings if "--exclude" in each]
        assert bool(told) is not hits, pattern
        assert all("'a-1'" in each for each in told)


def test_all_left_out_is_told_as_such(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    with pytest.raises(NoAdaptersFound, match="all that is there, 3 in number, is left out"):
        plan(zoo, exclude=["*"])


def test_a_rank_above_all_there_is_is_warned_of(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)  # of rank 4 each
    assert not [each for each in lego_ray.plan(zoo, rank=12).warnings if "zeros" in each]
    [told] = [each for each in lego_ray.plan(zoo, rank=13).warnings if "zeros" in each]
    assert "--rank 12" in told
    assert not [w for w in lego_ray.plan(zoo, rank=13, compact=True).warnings if "zeros" in w]
