"""Verify: hashes, reloading, and errors that equal the dense computation."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, LegoRayError, ObjectNotFound, VerificationFailed
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.sources.headers import scan_sources
from lego_ray.verification import compare
from lego_ray.verification.plan import Comparison, plan_comparison
from tests.runners.spread import write_wide_zoo
from tests.zoo import (
    CONFIG,
    CONV,
    EMBEDDING,
    LINEAR,
    WEIGHTS,
    Site,
    mixed_zoo,
    update_of,
    wide_site,
    write_adapter,
    write_zoo,
)

MANIFEST = "lego_ray_manifest.json"
# The sources' MSUs are rounded to float32 where their factors meet their scaling.
F32_ROUNDING = 8 * 2.0**-24
# A difference of two squares keeps half of float64's digits; the sum itself is float32's.
EXACT = 1e-6
# Everything else is float64 throughout.
TIGHT = 1e-10
OVERALL = (
    "relative_error_to_sum",
    "relative_error_to_mean",
    "norm_ratio",
    "least_squares_scale",
    "norm",
)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return mixed_zoo(tmp_path / "zoo")


def merge(zoo: Path, output: Path, **options: Any) -> Path:
    mine = {"rank": 5, "runner": "inline", **({} if "method" in options else {"n_init": 2})}
    lego_ray.merge(zoo, output=output, **{**mine, **options})
    return output


def flip_byte(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_without_sources_it_checks_the_files(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    record = lego_ray.verify(merged)
    assert record["ok"] is True
    assert record["errors"] is None
    assert record["files"] == sorted(["README.md", CONFIG, WEIGHTS])
    assert (record["rank"], record["sites"], record["sources"]) == (5, 4, 5)


def dense_figures(
    merged: Path, paths: list[Path], weights: dict[str, float], sites: list[str]
) -> dict[str, Any]:
    """What verify should say of these sites together, from dense updates in float64."""
    w = np.concatenate([update_of(merged)[site].ravel() for site in sites])
    each, own = {}, {}
    s: Any = 0.0
    m: Any = 0.0
    for site in sites:
        there = {path: update_of(path) for path in paths if site in update_of(path)}
        each[site] = {path: update[site] for path, update in there.items()}
    for path in paths:
        parts = [each[site].get(path, np.zeros(update_of(merged)[site].shape)) for site in sites]
        own[path] = np.concatenate([part.ravel() for part in parts])
        count = [sum(weights.get(p.name, 1.0) for p in each[site]) for site in sites]
        s = s + weights.get(path.name, 1.0) * own[path]
        m = m + weights.get(path.name, 1.0) * np.concatenate(
            [part.ravel() / n for part, n in zip(parts, count, strict=True)]
        )
    norm = np.linalg.norm
    return {
        "relative_error_to_sum": norm(w - s) / norm(s),
        "relative_error_to_mean": norm(w - m) / norm(m),
        "norm_ratio": norm(w) / norm(s),
        "least_squares_scale": w @ s / (w @ w),
        "norm": norm(w),
        "share_kept": {str(p): w @ u / (u @ u) for p, u in own.items() if u.any()},
        "cosine": {str(p): w @ u / (norm(w) * norm(u)) for p, u in own.items() if u.any()},
        "norms": {str(p): norm(u) for p, u in own.items()},
        "sites": {str(p): sum(p in there for there in each.values()) for p in own},
    }


def assert_figures(found: dict[str, Any], wanted: dict[str, Any], sources: list[str]) -> None:
    for key in OVERALL:
        assert found[key] == pytest.approx(wanted[key], rel=TIGHT, abs=EXACT * TIGHT), key
    for key in ("share_kept", "cosine"):
        got = dict(zip(sources, found[key], strict=True))
        assert {uri for uri, value in got.items() if value is not None} == wanted[key].keys()
        for uri, value in wanted[key].items():
            assert got[uri] == pytest.approx(value, rel=TIGHT, abs=TIGHT), (key, uri)


ZOOS: dict[str, dict[str, Any]] = {
    "lego": {},
    "compact": {"compact": True, "rank": 21},
    "bf16": {"dtype": "BF16"},
    "f16": {"dtype": "F16", "method": "svd"},
    "weighted": {"weights": {"plain": 2.0, "rslora": 0.3, "patterned": 0.1}},
    "more ranks than either side": {"method": "concat", "rank": 30},
    "scaled": {"method": "linear", "rank": 6, "output_scale": "source-norm*-2"},
    "ranks by site": {"method": "svd", "rank": None, "rank_budget": 4},
}


@pytest.mark.parametrize("options", ZOOS.values(), ids=ZOOS)
def test_figures_equal_the_dense_computation(
    options: dict[str, Any], zoo: Path, tmp_path: Path
) -> None:
    merged = merge(zoo, tmp_path / "m", **options)
    paths, weights = sorted(zoo.iterdir()), options.get("weights", {})
    errors = lego_ray.verify(merged, sources=zoo)["errors"]
    uris = [source["adapter"] for source in errors["sources"]]
    assert sorted(uris) == [str(path) for path in paths]
    assert len(errors["sites"]) == 4
    for site in errors["sites"]:
        wanted = dense_figures(merged, paths, weights, [site["site"]])
        # The mixed zoo has an adapter without this site.
        assert (None in site["share_kept"]) == (site["site"] == "layers.0.v_proj")
        assert_figures({**site, "norm": wanted["norm"]}, wanted, uris)
    wanted = dense_figures(merged, paths, weights, [site["site"] for site in errors["sites"]])
    listed = {
        key: [source[key] for source in errors["sources"]] for key in ("share_kept", "cosine")
    }
    assert_figures({**errors, **listed}, wanted, uris)
    for source in errors["sources"]:
        assert source["norm"] == pytest.approx(wanted["norms"][source["adapter"]], rel=TIGHT)
        assert source["sites"] == wanted["sites"][source["adapter"]]
        assert source["weight"] == weights.get(Path(source["adapter"]).name, 1.0)
    assert errors["mean_reason"] is None


def test_convolutions_and_embeddings_are_compared_too(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3, sites=(*LINEAR, EMBEDDING, CONV), dtype="BF16")
    merged = merge(zoo, tmp_path / "m", dtype="F32")
    errors = lego_ray.verify(merged, sources=zoo)["errors"]
    names = [site["site"] for site in errors["sites"]]
    assert len(names) == 6
    wanted = dense_figures(merged, sorted(zoo.iterdir()), {}, names)
    listed = {
        key: [source[key] for source in errors["sources"]] for key in ("share_kept", "cosine")
    }
    assert_figures({**errors, **listed}, wanted, [s["adapter"] for s in errors["sources"]])


def write_apart(root: Path, count: int) -> Path:
    """Adapters that change other inputs each: their updates are orthogonal."""
    for number in range(count):
        path = write_adapter(root / f"a{number}", seed=number, rank=3, alpha=3)
        tensors = load_file(path / WEIGHTS)
        for key, tensor in tensors.items():
            if "lora_A" in key:
                tensor[:, torch.arange(12) % count != number] = 0
        save_file(tensors, path / WEIGHTS, {"format": "pt"})
    return root


def test_the_sum_of_orthogonal_updates_keeps_them_whole_and_the_mean_its_part(
    tmp_path: Path,
) -> None:
    zoo = write_apart(tmp_path / "zoo", 3)
    options = {"method": "concat", "rank": 9, "weights": {"a1": 0.25, "a2": -1.0}}
    for scale, names in ((1.0, {"a0": 1.0, "a1": 0.25, "a2": -1.0}), (0.5, {"a0": 0.5})):
        merged = merge(zoo, tmp_path / f"m{scale}", output_scale=scale, **options)
        errors = lego_ray.verify(merged, sources=zoo)["errors"]
        kept = {Path(s["adapter"]).name: s["share_kept"] for s in errors["sources"]}
        for name, share in names.items():
            assert kept[name] == pytest.approx(share, rel=F32_ROUNDING)
        assert errors["least_squares_scale"] == pytest.approx(1 / scale, rel=F32_ROUNDING)
        assert sum(s["cosine"] ** 2 for s in errors["sources"]) == pytest.approx(1, rel=EXACT)


def test_there_is_no_mean_with_a_negative_weight(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    write_adapter(tmp_path / "zoo" / "b", seed=9, missing=["layers.0.q_proj"])
    merged = merge(zoo, tmp_path / "m", weights={"b": -1.0})
    errors = lego_ray.verify(merged, sources=zoo)["errors"]
    assert errors["relative_error_to_mean"] is None
    assert "negative" in errors["mean_reason"]
    found = {site["site"]: site["relative_error_to_mean"] for site in errors["sites"]}
    assert found.pop("layers.0.q_proj") > 0  # which b has not
    assert set(found.values()) == {None}
    assert errors["relative_error_to_sum"] > 0
    told = CliRunner().invoke(cli, ["verify", str(merged), "--sources", str(zoo)])
    assert "weighted mean      -  (a weight is negative" in told.output


def least_budget(zoo: Path, merged: Path) -> int:
    """The least that a comparison can be planned for, to a thousand bytes."""
    sources = scan_sources([str(zoo)]).inventory
    [record] = scan_sources([str(merged)]).inventory.adapters
    recipe, weights = Recipe(name="m", rank=4), [1.0] * len(sources.adapters)
    low, high = WORKER_BYTES, WORKER_BYTES + 2**24
    while high - low > 1000:
        budget = (low + high) // 2
        try:
            plan, _ = plan_comparison(
                recipe, sources, weights, record, merge_id="", memory_budget=budget
            )
        except InvalidOption:
            low = budget
        else:
            high = budget
            assert plan.peak_bytes <= budget
    return high


@pytest.mark.parametrize("options", [{"rank": 8}, {"method": "concat", "rank": 500}], ids=str)
def test_a_pool_that_does_not_fit_is_compared_in_blocks_and_bands(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    options["weights"] = {"a03": 2.0, "a07": 0.5}
    merged = tmp_path / "m"
    lego_ray.merge(zoo, output=merged, runner="inline", **options)
    whole = lego_ray.verify(merged, sources=zoo)
    least = least_budget(zoo, merged)
    seen: list[Any] = []
    blocks = compare._blocks

    def noted(task: Any, *rest: Any) -> Any:
        seen.append(task)
        return blocks(task, *rest)

    monkeypatch.setattr(compare, "_blocks", noted)
    tight = lego_ray.verify(merged, sources=zoo, memory_budget=least)
    sites = Counter(task.plan.name for task in seen)
    assert sites["layers.0.q_proj"] > 8  # bands of a few rows of the sum's 64
    assert min(len(task.plan.shards) for task in seen) > 1
    assert_close(tight, whole)
    seen.clear()
    wide = Comparison(8, 50 * 8 * 96).bands
    monkeypatch.setattr(Comparison, "bands", lambda work, d_in, d_out: wide(d_in, d_out))
    assert_close(lego_ray.verify(merged, sources=zoo, memory_budget=least), whole)
    assert Counter(task.plan.name for task in seen) == {"layers.0.q_proj": 2}
    monkeypatch.undo()
    with pytest.raises(InvalidOption, match=r"layers.*needs at least .* even in parts") as caught:
        lego_ray.verify(merged, sources=zoo, memory_budget=least - 2000)
    # What the error says is enough.
    [enough] = re.findall(r"Raise the budget to (\d+ MiB)", str(caught.value))
    assert lego_ray.verify(merged, sources=zoo, memory_budget=enough).ok


def assert_close(found: Any, wanted: Any) -> None:
    """The same JSON, numbers to float64 rounding."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_close(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for left, right in zip(found, wanted, strict=True):
            assert_close(left, right)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=TIGHT, abs=EXACT)
    else:
        assert found == wanted


def test_a_method_that_needs_a_pool_whole_is_verified_without(tmp_path: Path) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    merged = tmp_path / "m"
    lego_ray.merge(zoo, rank=4, output=merged, runner="inline", distance="rank-one", n_init=2)
    budget = WORKER_BYTES + 3 * 2**19
    with pytest.raises(InvalidOption, match="cannot be spread"):
        lego_ray.plan(zoo, rank=4, distance="rank-one", memory_budget=budget)
    whole = lego_ray.verify(merged, sources=zoo)
    assert_close(lego_ray.verify(merged, sources=zoo, memory_budget=budget), whole)


def test_people_are_shown_the_extremes(tmp_path: Path) -> None:
    sites = tuple(Site(f"layers.{i}.q_proj", (6,), 5) for i in range(7))
    zoo = write_zoo(tmp_path / "zoo", 13, sites=sites, rank=2)
    merged = merge(zoo, tmp_path / "m", rank=4)
    told = CliRunner().invoke(cli, ["verify", str(merged), "--sources", str(zoo)])
    assert told.exit_code == 0, told.output
    errors = lego_ray.verify(merged, sources=zoo)["errors"]
    kept = sorted(errors["sources"], key=lambda source: source["share_kept"])
    shown = [line.split()[0] for line in told.output.splitlines() if line.startswith(str(zoo))]
    assert shown == [source["adapter"] for source in (*kept[:5], *kept[-5:])]
    off = sorted(errors["sites"], key=lambda site: -site["relative_error_to_sum"])
    shown = [line.split()[0] for line in told.output.splitlines() if line.startswith("layers.")]
    assert shown == [site["site"] for site in off[:5]]
    assert f"{errors['least_squares_scale']:.6g}" in told.output


def test_the_catalog_has_the_same_errors(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT * FROM merge_sites").to_pylist()
    kept = {row["site"]: row for row in rows}
    for site in lego_ray.verify(merged, sources=zoo)["errors"]["sites"]:
        row = kept[site["site"]]
        assert row["relative_error"] == pytest.approx(
            site["relative_error_to_sum"], rel=F32_ROUNDING
        )
        assert row["norm_ratio"] == pytest.approx(site["norm_ratio"], rel=F32_ROUNDING)


def test_an_exact_sum_has_no_error(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m", rank=30, output_reweight="none")
    errors = lego_ray.verify(merged, sources=zoo)["errors"]
    assert errors["relative_error_to_sum"] < EXACT
    assert errors["norm_ratio"] == pytest.approx(1, abs=EXACT)


def test_sources_may_have_moved(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    moved = zoo.rename(tmp_path / "elsewhere")
    write_adapter(moved / "one more", seed=99)
    assert lego_ray.verify(merged, sources=[moved])["ok"]


def test_the_same_adapter_merged_twice_is_looked_for_twice(tmp_path: Path) -> None:
    for name in ("a", "twin"):
        write_adapter(tmp_path / "zoo" / name, seed=1)
    merged = merge(tmp_path / "zoo", tmp_path / "m")
    assert lego_ray.verify(merged, sources=tmp_path / "zoo")["sources"] == 2
    with pytest.raises(VerificationFailed):
        lego_ray.verify(merged, sources=tmp_path / "zoo" / "a")


@pytest.mark.parametrize("options", [{"compact": True, "rank": 21}, {"dtype": "BF16"}])
def test_other_outputs_verify_too(options: dict[str, Any], zoo: Path, tmp_path: Path) -> None:
    assert lego_ray.verify(merge(zoo, tmp_path / "m", **options), sources=zoo)["ok"]


def test_a_small_memory_budget_gives_the_same_errors(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    plan = lego_ray.plan(zoo, rank=5)
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    whole = lego_ray.verify(merged, sources=zoo)
    assert lego_ray.verify(merged, sources=zoo, memory_budget=budget) == whole


def test_never_trained_adapters_verify(tmp_path: Path) -> None:
    """B = 0: the sum is zero, and a ratio to it must still be a number JSON knows."""
    zoo = write_zoo(tmp_path / "zoo", 2, zero_b=True)
    record = lego_ray.verify(merge(zoo, tmp_path / "m"), sources=zoo)
    assert record["errors"]["relative_error_to_sum"] == 0
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("seed", range(4))
def test_updates_that_cancel_merge_and_verify(seed: int, tmp_path: Path) -> None:
    """An adapter and its negation: the sum is zero except for rounding, its parts are not."""
    path = write_adapter(tmp_path / "zoo" / "a", seed=seed)
    tensors = load_file(path / WEIGHTS)
    other = write_adapter(tmp_path / "zoo" / "minus-a", seed=seed, permute=1)
    negated = {k: -v if "lora_B" in k else v for k, v in load_file(other / WEIGHTS).items()}
    assert tensors.keys() == negated.keys()
    save_file(negated, other / WEIGHTS, {"format": "pt"})
    for rank in (1, 3, 8):
        merged = merge(
            tmp_path / "zoo", tmp_path / f"m{rank}", rank=rank, catalog=tmp_path / "catalog"
        )
        record = lego_ray.verify(merged, sources=tmp_path / "zoo")
        json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_changed_file_is_found(file: str, zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    flip_byte(merged / file, (merged / file).stat().st_size // 2)
    with pytest.raises(VerificationFailed, match="sha256") as caught:
        lego_ray.verify(merged)
    assert caught.value.where == str(merged / file)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_missing_file_is_found(file: str, zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    (merged / file).unlink()
    with pytest.raises(VerificationFailed, match="not there"):
        lego_ray.verify(merged)


def test_a_missing_source_is_named(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    with pytest.raises(VerificationFailed, match="not found under --sources") as caught:
        lego_ray.verify(merged, sources=[p for p in sorted(zoo.iterdir()) if p.name != "plain"])
    assert caught.value.where == str(zoo / "plain")


def test_a_source_written_again_counts_as_another(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    file = zoo / "plain" / WEIGHTS
    flip_byte(file, file.stat().st_size - 4)
    with pytest.raises(VerificationFailed):
        lego_ray.verify(merged, sources=zoo)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_source_changed_where_no_scan_looks_is_found(
    value: float, count: int, tmp_path: Path
) -> None:
    zoo = write_zoo(tmp_path / "zoo", count, sites=wide_site(1024), rank=32)
    merged = merge(zoo, tmp_path / "m", n_init=1)
    ids = {a["adapter_id"] for a in lego_ray.scan(zoo)["adapters"]}
    tensors = load_file(zoo / "a0" / WEIGHTS)
    tensors[min(tensors)][-1, -1] = value
    save_file(tensors, zoo / "a0" / WEIGHTS, {"format": "pt"})
    assert {a["adapter_id"] for a in lego_ray.scan(zoo)["adapters"]} == ids
    with pytest.raises(VerificationFailed, match="changed since") as caught:
        lego_ray.verify(merged, sources=zoo)
    assert caught.value.where == str(zoo / "a0")


def test_what_is_no_merge_is_said_to_be_none(zoo: Path, tmp_path: Path) -> None:
    for place in (zoo / "plain", tmp_path / "nowhere"):
        with pytest.raises(ObjectNotFound, match=MANIFEST) as caught:
            lego_ray.verify(place)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"manifest_version": 99}'])
def test_a_damaged_manifest_is_a_typed_error(text: str, zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    (merged / MANIFEST).write_text(text)
    with pytest.raises(LegoRayError, match=MANIFEST):
        lego_ray.verify(merged)


def test_a_merge_can_be_merged_again(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    again = merge(merged, tmp_path / "again")
    assert lego_ray.verify(again, sources=merged)["errors"]["relative_error_to_sum"] < EXACT
    torch.testing.assert_close(
        {k: torch.from_numpy(v) for k, v in update_of(again).items()},
        {k: torch.from_numpy(v) for k, v in update_of(merged).items()},
        rtol=EXACT,
        atol=EXACT,
    )
