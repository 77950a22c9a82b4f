"""The laws of the method, held at the level of files: the same merge is the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lego_ray
from tests.zoo import (
    CONFIG,
    CONV,
    EMBEDDING,
    LINEAR,
    WEIGHTS,
    Site,
    mixed_zoo,
    permuted_ranks,
    real_adapters,
    relative_error,
    shuffled_names,
    sum_of,
    update_of,
    weights_of,
    wide_site,
    write_adapter,
    write_zoo,
)

# A merged factor is a float32 rounding of its MSU, which is one of sqrt(s) times the source's.
F32_ROUNDING = 8 * 2.0**-24
# The same where the merged factors are stored with bfloat16's 8 significant bits.
BF16_ROUNDING = 4 * 2.0**-9


def merge(
    sources: Path | list[Path], output: Path, rank: int = 6, **options: Any
) -> dict[str, Any]:
    return lego_ray.merge(sources, rank=rank, output=output, **{"runner": "inline", **options})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_zoo(tmp_path_factory.mktemp("mixed") / "zoo")


@pytest.fixture(scope="module")
def merged(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the mixed zoo merges to in this process; the others must equal it."""
    output = tmp_path_factory.mktemp("merged") / "m"
    merge(zoo, output)
    return weights_of(output)


def test_the_merge_is_not_trivial(zoo: Path, merged: bytes, tmp_path: Path) -> None:
    """Other options give other bytes, or the equalities below would say nothing."""
    others: list[dict[str, Any]] = [{"seed": 1}, {"rank": 5}, {"parameter_reweight": "none"}]
    for number, options in enumerate(others):
        merge(zoo, tmp_path / str(number), **options)
        assert weights_of(tmp_path / str(number)) != merged


def test_again_gives_the_same_bytes(zoo: Path, merged: bytes, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m")
    assert weights_of(tmp_path / "m") == merged


def test_permuted_ranks_change_no_bit(zoo: Path, merged: bytes, tmp_path: Path) -> None:
    other = permuted_ranks(zoo, tmp_path / "zoo")
    assert weights_of(other / "plain") != weights_of(zoo / "plain")
    merge(other, tmp_path / "m")
    assert weights_of(tmp_path / "m") == merged


def test_other_names_and_another_order_change_no_bit(
    zoo: Path, merged: bytes, tmp_path: Path
) -> None:
    merge(shuffled_names(zoo, tmp_path / "zoo"), tmp_path / "m")
    assert weights_of(tmp_path / "m") == merged


def test_sources_one_by_one_change_no_bit(zoo: Path, merged: bytes, tmp_path: Path) -> None:
    merge(sorted(zoo.iterdir(), reverse=True), tmp_path / "m")
    assert weights_of(tmp_path / "m") == merged


def test_another_cut_into_tasks_changes_no_bit(zoo: Path, merged: bytes, tmp_path: Path) -> None:
    plan = lego_ray.plan(zoo, rank=6)
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    assert len(lego_ray.plan(zoo, rank=6, memory_budget=budget).tasks) > len(plan.tasks)
    merge(zoo, tmp_path / "m", memory_budget=budget)
    assert weights_of(tmp_path / "m") == merged


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_bytes_of_its_serial_twin(
    zoo: Path, merged: bytes, tmp_path: Path, workers: int
) -> None:
    plan = lego_ray.plan(zoo, rank=6)
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    record = merge(zoo, tmp_path / "m", runner="ray", workers=workers, memory_budget=budget)
    assert weights_of(tmp_path / "m") == merged
    inline = merge(zoo, tmp_path / "inline", memory_budget=budget, name="m")
    # All of the output, manifest and card included, and the record except for time and place.
    assert record["merge_id"] == inline["merge_id"]
    for file in (CONFIG, "lego_ray_manifest.json", "README.md"):
        assert (tmp_path / "m" / file).read_bytes() == (tmp_path / "inline" / file).read_bytes()
    changing = ("output", "seconds", "runner")
    assert {k: v for k, v in record.items() if k not in changing} == {
        k: v for k, v in inline.items() if k not in changing
    }


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_real_adapters_merge_to_the_same_bytes_on_ray(tmp_path: Path) -> None:
    for runner in ("ray", "inline"):
        merge(real_adapters(), tmp_path / runner, rank=8, runner=runner, n_init=2, name="m")
    assert weights_of(tmp_path / "ray") == weights_of(tmp_path / "inline")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rslora": True},
        {"alpha": 3},
        {"rank_pattern": {"layers.0.q_proj": 2, "layers.1.v_proj": 3}},
        {"alpha_pattern": {"layers.0.q_proj": 1, "layers.1.v_proj": 32}},
        {"rslora": True, "rank_pattern": {"layers.0.q_proj": 2}, "missing": ["layers.1.q_proj"]},
        {"sites": (*LINEAR, EMBEDDING, CONV)},
        {"dtype": "F16"},
    ],
    ids=str,
)
def test_one_adapter_at_its_own_rank_is_that_adapter(
    options: dict[str, Any], tmp_path: Path
) -> None:
    source = write_adapter(tmp_path / "a", seed=7, **options)
    merge(source, tmp_path / "m", rank=4, dtype="F32")
    assert relative_error(update_of(tmp_path / "m"), update_of(source)) < F32_ROUNDING


def test_one_bf16_adapter_is_returned_to_the_precision_it_is_stored_in(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a", seed=7, dtype="BF16")
    merge(source, tmp_path / "stored", rank=4)
    merge(source, tmp_path / "wide", rank=4, dtype="F32")
    wanted = update_of(source)
    assert relative_error(update_of(tmp_path / "stored"), wanted) < BF16_ROUNDING
    assert relative_error(update_of(tmp_path / "wide"), wanted) < F32_ROUNDING


@pytest.mark.parametrize("path", real_adapters(), ids=lambda path: path.name)
def test_each_real_adapter_at_its_own_rank_is_that_adapter(path: Path, tmp_path: Path) -> None:
    record = merge(path, tmp_path / "m", rank=16)
    assert record["adapters"] == [str(path)]
    assert relative_error(update_of(tmp_path / "m"), update_of(path)) < F32_ROUNDING


@pytest.mark.parametrize("sites", [LINEAR, (*LINEAR, EMBEDDING, CONV)], ids=["linear", "all"])
def test_as_many_clusters_as_ranks_is_the_exact_sum(
    sites: tuple[Site, ...], tmp_path: Path
) -> None:
    for number in range(3):
        write_adapter(tmp_path / "zoo" / f"a{number}", seed=number + 1, sites=sites)
    paths = sorted((tmp_path / "zoo").iterdir())
    merge(tmp_path / "zoo", tmp_path / "m", rank=12, output_reweight="none")
    assert relative_error(update_of(tmp_path / "m"), sum_of(paths)) < F32_ROUNDING


def test_the_exact_sum_of_mixed_ranks_and_missing_sites(zoo: Path, tmp_path: Path) -> None:
    for compact in (False, True):
        output = tmp_path / f"compact-{compact}"
        merge(zoo, output, rank=30, output_reweight="none", compact=compact)
        assert relative_error(update_of(output), sum_of(sorted(zoo.iterdir()))) < F32_ROUNDING


def test_compact_and_padded_are_the_same_update(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "padded", rank=21)
    merge(zoo, tmp_path / "compact", rank=21, compact=True)
    assert (tmp_path / "compact" / WEIGHTS).stat().st_size < (
        tmp_path / "padded" / WEIGHTS
    ).stat().st_size
    assert relative_error(update_of(tmp_path / "compact"), update_of(tmp_path / "padded")) == 0


def test_no_adapter_byte_is_read_twice_beyond_the_scan(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3, sites=wide_site(1024), rank=32, dtype="BF16")
    sizes = sum(file.stat().st_size for file in zoo.rglob("*") if file.is_file())
    scanned = lego_ray.scan(zoo)["bytes_read"]
    record = merge(zoo, tmp_path / "m", rank=8, n_init=1)
    assert record["bytes_read"] <= scanned + sizes
