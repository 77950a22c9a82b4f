"""Ranks chosen by measuring: the promised error, the same bytes on any runner, nothing done twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import InvalidOption, NoAdaptersFound, OutputExists
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.tasks.values import TaskResult
from tests.runners.spread import budget_of, write_wide_zoo
from tests.zoo import (
    CONFIG,
    CONV,
    EMBEDDING,
    LINEAR,
    WEIGHTS,
    Site,
    files_of,
    mixed_zoo,
    permuted_ranks,
    shuffled_names,
    sum_of,
    update_of,
    weights_of,
    write_adapter,
    write_zoo,
)

# Float32 factors, and the difference of squares that an error is computed by.
ROUNDING = 1e-5
# With the memory that merges one, a task measures a few.
MANY = tuple(Site(f"layers.{i}.q_proj", (48,), 40) for i in range(8))
ASKED: list[dict[str, Any]] = [{"rank": "auto", "rank_error": 0.45}, {"rank_budget": 3}]


class Stop(Exception):
    """Ends a run where a test wants it to end."""


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"runner": "inline", "name": "m", "method": "svd", **options}
    if given["method"] == "lego":
        given["n_init"] = 2
    return lego_ray.merge(zoo, output=output, **given)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = mixed_zoo(tmp_path_factory.mktemp("mixed") / "zoo")
    # So that sites are unlike: one of many strong directions, one of few.
    strong = {"layers.0.q_proj": 30.0, "layers.1.v_proj": 0.5}
    write_adapter(root / "uneven", seed=6, rank=8, alpha_pattern=strong)
    return root


@pytest.fixture(scope="module")
def energies(zoo: Path) -> dict[str, np.ndarray]:
    """Squared singular values of the dense sums."""
    total = sum_of([path.parent for path in zoo.rglob(CONFIG)])
    return {site: np.linalg.svd(w, compute_uv=False) ** 2 for site, w in total.items()}


def error_of(energies: dict[str, np.ndarray], ranks: Callable[[str], int]) -> float:
    left = sum(float(e[ranks(site) :].sum()) for site, e in energies.items())
    error: float = (left / sum(float(e.sum()) for e in energies.values())) ** 0.5
    return error


def always(rank: int) -> Callable[[str], int]:
    """The same rank at every site."""
    return lambda _: rank


def overall_error(merged: Path, zoo: Path) -> float:
    """Frobenius over all sites, of dense float64 updates."""
    got, wanted = update_of(merged), sum_of([path.parent for path in zoo.rglob(CONFIG)])
    gap = sum(float(np.square(got[site] - w).sum()) for site, w in wanted.items())
    error: float = (gap / sum(float(np.square(w).sum()) for w in wanted.values())) ** 0.5
    return error


def ranks_of(merged: Path) -> dict[str, int]:
    tensors = load_file(merged / WEIGHTS)
    return {
        key.removeprefix("base_model.model.").partition(".lora_A.")[0]: len(a)
        for key, a in tensors.items()
        if ".lora_A." in key
    }


@pytest.mark.parametrize("bound", [0.15, 0.3, 0.45, 0.7])
def test_auto_is_the_smallest_rank_within_the_bound(
    bound: float, zoo: Path, energies: dict[str, np.ndarray], tmp_path: Path
) -> None:
    record = merge(zoo, tmp_path / "m", rank="auto", rank_error=bound)
    k = record["rank"]
    assert error_of(energies, lambda _: k) <= bound < error_of(energies, lambda _: k - 1)
    assert record["nearest_error"] == pytest.approx(error_of(energies, lambda _: k), rel=1e-5)
    assert record["ranks"] is None
    assert overall_error(tmp_path / "m", zoo) <= bound + ROUNDING
    merge(zoo, tmp_path / "less", rank=k - 1) if k > 1 else None
    assert k == 1 or overall_error(tmp_path / "less", zoo) > bound
    assert set(ranks_of(tmp_path / "m").values()) == {k}
    config = json.loads((tmp_path / "m" / CONFIG).read_text())
    assert (config["r"], config["rank_pattern"]) == (k, {})


@pytest.mark.parametrize("method", ["svd", "lego", "core_space", "iso", "knots", "ctm"])
def test_a_budget_is_kept_and_spent_site_by_site(
    method: str, zoo: Path, energies: dict[str, np.ndarray], tmp_path: Path
) -> None:
    record = merge(zoo, tmp_path / "m", rank_budget=3, method=method, catalog=tmp_path / "catalog")
    ranks = record["ranks"]
    assert len(set(ranks.values())) > 1
    assert record["rank"] == max(ranks.values())
    widths = {site: 12 + (10 if "q_proj" in site else 7) for site in ranks}
    assert sum(widths[s] * k for s, k in ranks.items()) <= 3 * sum(widths.values())
    assert ranks_of(tmp_path / "m") == ranks
    assert error_of(energies, ranks.__getitem__) < error_of(energies, lambda _: 3)
    assert record["nearest_error"] == pytest.approx(error_of(energies, ranks.__getitem__), rel=1e-5)
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT site, rank FROM merge_sites")
    assert {r["site"]: r["rank"] for r in rows.to_pylist()} == ranks
    [row] = lego_ray.catalog.sql(
        tmp_path / "catalog", "SELECT rank, recipe FROM merges"
    ).to_pylist()
    assert row["rank"] == record["rank"]
    assert json.loads(row["recipe"])["ranks"] == ranks
    manifest = json.loads((tmp_path / "m" / "lego_ray_manifest.json").read_text())
    assert manifest["recipe"]["ranks"] == ranks
    assert (
        f"rank {min(ranks.values())}-{record['rank']} (" in (tmp_path / "m/README.md").read_text()
    )
    found = lego_ray.verify(tmp_path / "m", sources=zoo)
    assert (found["ok"], found["rank"]) == (True, record["rank"])
    error = found["errors"]["relative_error_to_sum"]
    if method == "svd":
        assert error == pytest.approx(record["nearest_error"], abs=ROUNDING)
    else:
        assert error > record["nearest_error"] - ROUNDING


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("method", ["svd", "lego"])
def test_order_changes_nothing(
    asked: dict[str, Any], method: str, zoo: Path, tmp_path: Path
) -> None:
    one = merge(zoo, tmp_path / "one", method=method, **asked)
    for change in (permuted_ranks, shuffled_names):
        other = change(zoo, tmp_path / change.__name__)
        two = merge(other, tmp_path / f"{change.__name__}-m", method=method, **asked)
        assert (two["rank"], two["ranks"]) == (one["rank"], one["ranks"])
        assert two["nearest_error"] == one["nearest_error"]
        assert weights_of(two["output"]) == weights_of(one["output"])


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_gives_the_same_bytes(zoo: Path, tmp_path: Path) -> None:
    here = merge(zoo, tmp_path / "here", method="lego", rank_budget=3)
    there = merge(zoo, tmp_path / "there", method="lego", rank_budget=3, runner="ray")
    same = ("merge_id", "rank", "ranks", "nearest_error", "bytes_read")
    assert {key: there[key] for key in same} == {key: here[key] for key in same}
    assert files_without_times(tmp_path / "there") == files_without_times(tmp_path / "here")


def files_without_times(root: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in files_of(root).items()}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_zoo(tmp_path_factory.mktemp("wide") / "zoo")


@pytest.fixture(scope="module")
def in_shards(wide: Path) -> int:
    """The memory budget under which measuring takes three shards of a site."""
    return budget_of(Recipe(name="m", rank=None, rank_budget=20), wide, 3)


def test_sites_in_shards_get_the_same_ranks(wide: Path, in_shards: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rank_budget": 20, "method": "lego"}
    whole = merge(wide, tmp_path / "whole", **options)
    spread = merge(wide, tmp_path / "spread", memory_budget=in_shards, **options)
    assert len(set(whole["ranks"].values())) == 2
    assert spread["merge_id"] == whole["merge_id"]
    assert (spread["ranks"], spread["nearest_error"]) == (whole["ranks"], whole["nearest_error"])
    assert weights_of(tmp_path / "spread") == weights_of(tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_actors_measure_the_same(wide: Path, in_shards: int) -> None:
    options: dict[str, Any] = {"rank_budget": 20, "errors": True}
    whole = lego_ray.plan(wide, **options)
    spread = lego_ray.plan(wide, memory_budget=in_shards, runner="ray", **options)
    assert spread.digest == whole.digest
    assert spread.errors == whole.errors


def followed(zoo: Path, output: Path, stop: int = -1, **options: Any) -> list[TaskResult]:
    """The results of a merge, up to some number of them."""
    seen: list[TaskResult] = []

    def follow(plan: Plan, result: TaskResult | None) -> None:
        seen.extend([result] if result else [])
        if len(seen) == stop:
            raise Stop

    if stop > 0:
        with pytest.raises(Stop):
            merge(zoo, output, progress=follow, **options)
    else:
        merge(zoo, output, progress=follow, **options)
    return seen


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("stop", ["measuring", "measured", "merging"])
def test_a_run_that_was_stopped_measures_and_merges_only_what_is_left(
    asked: dict[str, Any], stop: str, tmp_path: Path
) -> None:
    zoo = write_zoo(tmp_path / "zoo", rank=5, sites=MANY)
    loose = merge(zoo, tmp_path / "loose", **asked)
    plan = lego_ray.plan(zoo, method="svd", rank=loose["rank"])  # the largest that is chosen
    tight = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    options = {**asked, "memory_budget": tight, "name": "m"}
    every = followed(zoo, tmp_path / "whole", **options)
    measured = sum(bool(result.found) for result in every)
    assert (measured > 1, len(every) - measured) == (True, len(MANY))
    at = {"measuring": measured - 1, "measured": measured, "merging": measured + 1}[stop]
    seen = followed(zoo, tmp_path / "m", at, **options)
    found = lego_ray.status(tmp_path / "m")
    assert found["state"] == "unfinished"
    assert found["sites_measured"] == sum(len(result.found) for result in seen)
    assert found["sites_done"] == sum(len(result.sites) for result in seen)
    record = merge(zoo, tmp_path / "m", **options)
    assert record["resumed_sites"] == found["sites_done"]
    headers = lego_ray.scan(zoo)["bytes_read"]
    left = sum(result.bytes_read for result in every) - sum(result.bytes_read for result in seen)
    assert record["bytes_read"] == headers + left
    assert files_without_times(tmp_path / "m") == files_without_times(tmp_path / "whole")
    assert lego_ray.status(tmp_path / "m")["sites_measured"] == len(MANY)


def test_the_same_request_again_is_a_no_op_and_reads_headers_alone(
    zoo: Path, tmp_path: Path
) -> None:
    first = merge(zoo, tmp_path / "m", rank_budget=3)
    again = merge(zoo, tmp_path / "m", rank_budget=3)
    assert again["status"] == "already published"
    same = ("merge_id", "rank", "ranks", "nearest_error", "sites")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}
    assert again["bytes_read"] < first["bytes_read"]
    with pytest.raises(OutputExists):
        merge(zoo, tmp_path / "m", rank_budget=2)


def test_bad_weights_are_found_by_measuring_and_ranks_chosen_without_them(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    good = merge(zoo, tmp_path / "good", rank_budget=3, exclude=["bad"])
    file = write_zoo(tmp_path / "more", 1, seed=9, rank=7) / "a0"
    file.rename(zoo / "bad")
    tensors = load_file(zoo / "bad" / WEIGHTS)
    tensors["base_model.model.layers.1.q_proj.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, zoo / "bad" / WEIGHTS, {"format": "pt"})
    record = merge(zoo, tmp_path / "m", rank_budget=3)
    assert [entry["adapter"] for entry in record["refused"]] == [str(zoo / "bad")]
    assert record["ranks"] == good["ranks"]
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "good")
    assert merge(zoo, tmp_path / "m", rank_budget=3)["status"] == "already published"


def test_full_weights_are_read_once_and_kept(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    head = {"base_model.model.head.weight": torch.arange(6.0).reshape(2, 3)}
    write_zoo(zoo, 2)
    write_zoo(tmp_path / "k", 1, full_weights=head, modules_to_save=["head"], seed=5)
    (tmp_path / "k" / "a0").rename(zoo / "keeper")
    options: dict[str, Any] = {"rank": "auto", "full_weights": "keep:keeper"}
    results: list[TaskResult] = []

    def follow(plan: Plan, result: TaskResult | None) -> None:
        results.extend([result] if result else [])

    merge(zoo, tmp_path / "m", progress=follow, **options)
    assert [bool(r.full_weights) for r in results] == [False, True]
    stored = load_file(tmp_path / "m" / WEIGHTS)
    assert torch.equal(stored["base_model.model.head.weight"], head["base_model.model.head.weight"])


def test_what_is_merged_is_weighted_before_it_is_measured(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    heavy = merge(zoo, tmp_path / "a", rank="auto", rank_error=0.2, weights={"a0": 50.0})
    even = merge(zoo, tmp_path / "b", rank="auto", rank_error=0.2)
    assert heavy["rank"] <= 4 < even["rank"]
    larger = merge(zoo, tmp_path / "c", rank="auto", rank_error=0.2, output_scale=3.0)
    assert larger["rank"] == even["rank"]


def test_all_kinds_of_layers_are_measured(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3, sites=(*LINEAR, EMBEDDING, CONV))
    record = merge(zoo, tmp_path / "m", rank_budget=2)
    assert set(record["ranks"]) == {s.name for s in (*LINEAR, EMBEDDING, CONV)}
    updates, wanted = update_of(tmp_path / "m"), sum_of(sorted(zoo.iterdir()))
    for site, k in record["ranks"].items():
        u, s, vt = np.linalg.svd(wanted[site], full_matrices=False)
        np.testing.assert_allclose(updates[site], (u[:, :k] * s[:k]) @ vt[:k], atol=1e-5)


def test_a_plan_with_errors_is_the_merge_to_come(
    zoo: Path, energies: dict[str, np.ndarray], tmp_path: Path
) -> None:
    before = files_of(tmp_path)
    made = lego_ray.plan(zoo, rank="auto", rank_error=0.45, method="svd", name="m", errors=True)
    assert files_of(tmp_path) == before
    for each in made.errors:
        assert each.error == pytest.approx(error_of(energies, always(each.rank)), abs=1e-7)
        own = {s: error_of({s: e}, always(each.rank)) for s, e in energies.items()}
        assert each.worst_error == pytest.approx(max(own.values()), abs=1e-7)
    assert [e.rank for e in made.errors if e.rank in (1, 2, 4, 8)] == [1, 2, 4, 8]
    assert made.rank in [e.rank for e in made.errors]
    record = merge(zoo, tmp_path / "m", rank="auto", rank_error=0.45)
    assert record["merge_id"] == made.digest
    assert record["nearest_error"] == made.nearest_error
    opened = lego_ray.plan(zoo, rank="auto", rank_error=0.45, method="svd", name="m")
    manifest = json.loads((tmp_path / "m" / "lego_ray_manifest.json").read_text())
    assert manifest["requested_plan"] == opened.digest
    assert opened.read_bytes == made.read_bytes


def test_a_plan_of_a_rank_can_tell_the_errors_too(zoo: Path) -> None:
    options: dict[str, Any] = {"rank": 9, "method": "ties", "density": 0.5}
    plain = lego_ray.plan(zoo, **options)
    told = lego_ray.plan(zoo, errors=True, **options)
    assert (plain.errors, plain.nearest_error) == ((), None)
    assert replace(told, errors=(), nearest_error=None) == plain
    auto = lego_ray.plan(zoo, rank="auto", errors=True)
    assert [e for e in told.errors if e.rank not in (9, auto.rank)] == [
        e for e in auto.errors if e.rank not in (9, auto.rank)
    ]
    [own] = [e.error for e in told.errors if e.rank == 9]
    assert told.nearest_error == pytest.approx(own, rel=1e-5)


def test_a_plan_with_errors_leaves_out_what_turns_out_bad(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    alone = lego_ray.plan(zoo, rank=2, errors=True, exclude=["a2"])
    tensors = load_file(zoo / "a2" / WEIGHTS)
    tensors["base_model.model.layers.1.q_proj.lora_A.weight"][0, 0] = float("inf")
    save_file(tensors, zoo / "a2" / WEIGHTS, {"format": "pt"})
    made = lego_ray.plan(zoo, rank=2, errors=True)
    assert [r.uri for r in made.refused] == [str(zoo / "a2")]
    assert made.errors == alone.errors
    for path in ("a0", "a1"):
        tensors = load_file(zoo / path / WEIGHTS)
        tensors["base_model.model.layers.0.q_proj.lora_A.weight"][0, 0] = float("inf")
        save_file(tensors, zoo / path / WEIGHTS, {"format": "pt"})
    with pytest.raises(NoAdaptersFound):
        lego_ray.plan(zoo, rank=2, errors=True)


def test_a_merge_that_fits_at_no_rank_writes_nothing(wide: Path, tmp_path: Path) -> None:
    budget = WORKER_BYTES + 300_000
    with pytest.raises(InvalidOption, match="--memory-budget"):
        merge(wide, tmp_path / "m", rank="auto", memory_budget=budget)
    assert files_of(tmp_path / "m") == {}


def test_what_was_chosen_is_logged(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="lego_ray")
    record = merge(zoo, tmp_path / "m", rank_budget=3)
    found = {r.event: r for r in caplog.records if r.name == "lego_ray"}  # type: ignore[attr-defined]
    chosen = found["ranks chosen"]
    assert chosen.plan == record["merge_id"]  # type: ignore[attr-defined]
    fields = chosen.fields  # type: ignore[attr-defined]
    assert (fields["asked"], fields["most"]) == ("budget 3", record["rank"])
    assert found["task measured"].fields["sites"] == 4  # type: ignore[attr-defined]
