"""Verify: hashes, reloading, and errors that equal the dense computation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import LegoRayError, ObjectNotFound, VerificationFailed
from tests.zoo import (
    CONFIG,
    WEIGHTS,
    mixed_zoo,
    sum_of,
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


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return mixed_zoo(tmp_path / "zoo")


def merge(zoo: Path, output: Path, **options: Any) -> Path:
    lego_ray.merge(zoo, output=output, **{"rank": 5, "runner": "inline", "n_init": 2, **options})
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


def test_errors_equal_the_dense_computation(zoo: Path, tmp_path: Path) -> None:
    merged = merge(zoo, tmp_path / "m")
    errors = lego_ray.verify(merged, sources=zoo)["errors"]
    paths = sorted(zoo.iterdir())
    got, total = update_of(merged), sum_of(paths)
    counts = {site: sum(site in update_of(path) for path in paths) for site in total}
    for site in errors["sites"]:
        name = site["site"]
        w, s = got[name], total[name]
        m = s / counts[name]
        wanted = {
            "relative_error_to_sum": np.linalg.norm(w - s) / np.linalg.norm(s),
            "relative_error_to_mean": np.linalg.norm(w - m) / np.linalg.norm(m),
            "norm_ratio": np.linalg.norm(w) / np.linalg.norm(s),
        }
        for key, value in wanted.items():
            assert site[key] == pytest.approx(value, rel=F32_ROUNDING), (name, key)
    assert len(errors["sites"]) == 4

    def norm(parts: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(sum(np.sum(part**2) for part in parts.values())))

    mean = {n: s / counts[n] for n, s in total.items()}
    overall = {
        "relative_error_to_sum": norm({n: got[n] - total[n] for n in total}) / norm(total),
        "relative_error_to_mean": norm({n: got[n] - mean[n] for n in total}) / norm(mean),
        "norm_ratio": norm(got) / norm(total),
    }
    for key, value in overall.items():
        assert errors[key] == pytest.approx(value, rel=F32_ROUNDING), key


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
    budget = max(site.peak_bytes for group in plan.groups for site in group.sites)
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
    """An adapter and its negation: the sum is zero but for rounding, its parts are not."""
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


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG, "README.md"])
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
    with pytest.raises(VerificationFailed, match="not among --sources") as caught:
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
