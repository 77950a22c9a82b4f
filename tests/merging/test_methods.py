"""Every method end to end: PEFT's own merge of the same adapters, records, resuming, the catalog."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from peft import PeftModel
from torch import nn

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption
from lego_ray.methods.names import METHODS
from lego_ray.planning.task_plans import WORKER_BYTES
from tests.formats.tiny_peft import TinyModel, save, train
from tests.runners.spread import shards_of, write_wide_zoo
from tests.zoo import mixed_zoo, relative_error, sum_of, update_of, weights_of, write_zoo

# PEFT sums and multiplies in float32.
PEFT_ROUNDING = 2.0**-18
# Its SVD is of the dense float32 update, whose singular vectors are right to about that.
PEFT_SVD_ROUNDING = 2.0**-15
F32_ROUNDING = 8 * 2.0**-24
LINEAR = ["q_proj", "v_proj"]
OTHERS = [name for name in METHODS if name != "lego"]


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    return lego_ray.merge(zoo, output=output, **{"rank": 30, "runner": "inline", **options})


def spreading_budget(zoo: Path, **options: Any) -> int:
    """The largest budget that some site does not fit whole."""
    whole = lego_ray.plan(zoo, **options).peak_bytes
    for part in range(100, 0, -1):
        budget = WORKER_BYTES + (whole - WORKER_BYTES) * part // 100
        if max(shards_of(lego_ray.plan(zoo, memory_budget=budget, **options)).values()) > 1:
            return budget
    raise AssertionError("no budget spreads a site")


def by_peft(paths: list[Path], **options: Any) -> dict[str, np.ndarray]:
    """Updates by site of PEFT's `add_weighted_adapter`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(TinyModel(), str(paths[0]), adapter_name="0")
        for number, path in enumerate(paths[1:], 1):
            model.load_adapter(str(path), adapter_name=str(number))
        names = [str(number) for number in range(len(paths))]
        model.add_weighted_adapter(names, adapter_name="merged", **options)
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and "merged" in getattr(module, "scaling", {}):
            delta = module.get_delta_weight("merged").detach()
            if isinstance(module.get_base_layer(), nn.Embedding):
                delta = delta.T
            found[name.removeprefix("base_model.model.")] = delta.flatten(1).double().numpy()
    return found


@pytest.mark.parametrize(
    ("method", "options", "theirs", "tolerance"),
    [
        ("concat", {"rank": 12}, {"combination_type": "cat"}, PEFT_ROUNDING),
        ("linear", {"rank": 4}, {"combination_type": "linear"}, PEFT_ROUNDING),
        ("svd", {"rank": 5}, {"combination_type": "svd", "svd_rank": 5}, PEFT_SVD_ROUNDING),
        (
            "magnitude_prune",
            {"rank": 4, "density": 0.5},
            {"combination_type": "magnitude_prune", "density": 0.5},
            PEFT_ROUNDING,
        ),
        (
            "ties",
            {"rank": 4, "density": 0.5, "election": "frequency"},
            {"combination_type": "ties", "density": 0.5, "majority_sign_method": "frequency"},
            PEFT_ROUNDING,
        ),
    ],
    ids=["concat", "linear", "svd", "magnitude_prune", "ties"],
)
def test_equals_pefts_add_weighted_adapter(
    method: str, options: Any, theirs: Any, tolerance: float, tmp_path: Path
) -> None:
    weights = [1.0, 0.5, 2.0]
    targets = LINEAR if method == "svd" else [*LINEAR, "emb", "conv"]
    paths = [
        save(train(seed=seed, target_modules=targets), tmp_path / "zoo" / f"a{seed}")
        for seed in range(3)
    ]
    named = {path.name: weight for path, weight in zip(paths, weights, strict=True)}
    merge(tmp_path / "zoo", tmp_path / "m", method=method, weights=named, **options)
    wanted = by_peft(paths, weights=weights, **theirs)
    assert relative_error(update_of(tmp_path / "m"), wanted) < tolerance


@pytest.mark.parametrize("method", OTHERS)
def test_a_merge_is_recorded_verified_and_found_again(method: str, tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    record = merge(zoo, tmp_path / "m", method=method, catalog=tmp_path / "catalog")
    assert record["method"] == method
    errors = lego_ray.verify(tmp_path / "m", sources=zoo)["errors"]
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT * FROM merge_sites").to_pylist()
    kept = {row["site"]: row for row in rows}
    for site in errors["sites"]:
        row = kept[site["site"]]
        assert row["inertia"] is None
        assert row["iterations"] is None
        assert row["relative_error"] == pytest.approx(
            site["relative_error_to_sum"], rel=1e-5, abs=1e-6
        )
    traced = lego_ray.catalog.lineage(tmp_path / "catalog", "m").to_pylist()
    assert len(traced) == len(record["adapters"])
    # Ranks that are zero or rounding are made of nothing.
    query = "SELECT count(DISTINCT (site, cluster)) AS n FROM msus WHERE cluster >= 0"
    [made] = lego_ray.catalog.sql(tmp_path / "catalog", query)["n"].to_pylist()
    assert 0.8 * sum(row["rank"] for row in rows) <= made <= sum(row["rank"] for row in rows)
    assert sum(row["weight"] for row in traced) == pytest.approx(made, abs=1e-4)
    if method == "concat":
        assert sum(row["msus"] for row in traced) == sum(row["n_msus"] for row in rows)
    assert lego_ray.check_catalog(tmp_path / "catalog", deep=True)["problems"] == []
    ranks = lego_ray.catalog.lineage(tmp_path / "catalog", "m", site=rows[0]["site"]).to_pylist()
    sums = Counter[int]()
    for each in ranks:
        sums[each["cluster"]] += each["weight"]
    assert dict(sums) == pytest.approx(dict.fromkeys(sums, 1.0), abs=1e-5)
    again = merge(zoo, tmp_path / "m", method=method, catalog=tmp_path / "catalog")
    assert again["status"] == "already published"


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_the_exact_sum_of_mixed_ranks_and_missing_sites(method: str, tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    merge(zoo, tmp_path / "m", method=method)
    assert relative_error(update_of(tmp_path / "m"), sum_of(sorted(zoo.iterdir()))) < 1e-5


@pytest.mark.parametrize("method", ["linear", "dare_ties", "tsv", "svd", "iso"])
def test_a_pool_in_shards_gives_the_same_bytes(method: str, tmp_path: Path) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    options = {"rank": 48, "method": method}
    budget = spreading_budget(zoo, **options)
    merge(zoo, tmp_path / "m", **options)
    merge(zoo, tmp_path / "spread", memory_budget=budget, **options)
    assert weights_of(tmp_path / "spread") == weights_of(tmp_path / "m")


@pytest.mark.parametrize("method", ["svd", "dare_ties"])
def test_another_cut_into_tasks_changes_no_bit(method: str, tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    merge(zoo, tmp_path / "m", rank=6, method=method)
    plan = lego_ray.plan(zoo, rank=6, method=method)
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    merge(zoo, tmp_path / "cut", rank=6, method=method, memory_budget=budget)
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "m")


def test_a_rank_too_low_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    with pytest.raises(InvalidOption, match="Give --rank 12"):
        lego_ray.plan(zoo, rank=8, method="concat")
    with pytest.raises(InvalidOption, match="Give --rank 4"):
        merge(zoo, tmp_path / "m", rank=3, method="linear")
    assert not (tmp_path / "m").exists()


def test_a_run_cut_short_goes_on(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    whole = lego_ray.plan(zoo, rank=4, method="ties")
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    options = {"rank": 4, "method": "ties", "memory_budget": budget}

    def stop(plan: Any, result: Any) -> None:
        if result is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(zoo, tmp_path / "m", progress=stop, **options)
    assert lego_ray.status(tmp_path / "m")["state"] == "unfinished"
    record = merge(zoo, tmp_path / "m", **options)
    assert record["resumed_sites"] > 0
    merge(zoo, tmp_path / "straight", **options)
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "straight")


@pytest.mark.parametrize("rule", ["source-norm*2", "sum-fit"])
@pytest.mark.parametrize("method", ["lego", "linear"])
def test_rules_and_scales_of_sites_are_held_in_every_cut(
    method: str, rule: str, tmp_path: Path
) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    weights = {"a00": 2.0, "a01": -0.5}
    options = {"rank": 48, "method": method, "weights": weights, "output_scale": rule}
    options["site_scales"] = {"layers.1.*": 0.5}
    merge(zoo, tmp_path / "m", **options)
    [site_0, site_1] = update_of(tmp_path / "m").values()
    updates = [
        {s: weights.get(path.name, 1.0) * part for s, part in update_of(path).items()}
        for path in sorted(zoo.iterdir())
    ]
    for name, got, own in (("layers.0.q_proj", site_0, 1.0), ("layers.1.q_proj", site_1, 0.5)):
        parts = [update[name] for update in updates if name in update]
        if rule == "sum-fit":  # projected on the merged update, their sum is that
            wanted = own * np.linalg.norm(got) ** 2
            assert own**2 * np.sum(got * sum(parts)) == pytest.approx(wanted, rel=1e-6)
        else:
            wanted = 2 * own * np.sqrt(np.mean([np.linalg.norm(part) ** 2 for part in parts]))
            assert np.linalg.norm(got) == pytest.approx(wanted, rel=F32_ROUNDING)
    budget = spreading_budget(zoo, **options)
    merge(zoo, tmp_path / "spread", memory_budget=budget, **options)
    assert weights_of(tmp_path / "spread") == weights_of(tmp_path / "m")


@pytest.mark.parametrize("preset", ["adaptive", "lego-adaptive"])
def test_the_adaptive_presets_are_the_same_in_every_cut(preset: str, tmp_path: Path) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    options: dict[str, Any] = {"rank": 8, "preset": preset}
    merge(zoo, tmp_path / "m", **options)
    budget = spreading_budget(zoo, **options)
    merge(zoo, tmp_path / "spread", memory_budget=budget, **options)
    assert weights_of(tmp_path / "spread") == weights_of(tmp_path / "m")
    cap = {"adaptive": 1.5, "lego-adaptive": 2.0}[preset]
    updates = [update_of(path) for path in sorted(zoo.iterdir())]
    for name, got in update_of(tmp_path / "m").items():
        parts = [update[name] for update in updates if name in update]
        norms = np.array([np.linalg.norm(part) for part in parts])
        whole = np.linalg.norm(np.sum(parts, axis=0))
        count = np.clip(norms.sum() ** 2 / whole**2, 1, len(parts))
        wanted = min(np.sqrt(count), cap) * np.sqrt(np.mean(norms**2))
        assert np.linalg.norm(got) == pytest.approx(wanted, rel=1e-5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "| spectrum | adaptive |" in card


def test_scales_are_taken_from_the_command_line_and_recorded(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    words = [
        "merge",
        str(zoo),
        "--rank",
        "4",
        "--output",
        str(tmp_path / "m"),
        "--runner",
        "inline",
    ]
    scales = [
        "--output-scale",
        "sum-fit*0.5",
        "--site-scale",
        "q_proj=2",
        "--site-scale",
        "*.1.v*=-1",
    ]
    done = CliRunner().invoke(cli, [*words, *scales, "--json"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "m" / "lego_ray_manifest.json").read_text())
    assert manifest["recipe"]["output_scale"] == "sum-fit*0.5"
    assert manifest["recipe"]["site_scales"] == {"q_proj": 2.0, "*.1.v*": -1.0}
    card = (tmp_path / "m" / "README.md").read_text()
    assert "| output scale | sum-fit*0.5 |" in card
    assert "| scale of `q_proj` | 2 |" in card
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["errors"]
    plain = lego_ray.plan(zoo, rank=4, name="m")
    assert plain.digest != manifest["merge_id"]
    for wrong in (
        ["--site-scale", "q_proj"],
        ["--site-scale", "q_proj=1", "--site-scale", "q_proj=2"],
    ):
        assert CliRunner().invoke(cli, [*words, *wrong]).exit_code == 2
    for wrong in (["--site-scale", "k_proj=2"], ["--output-scale", "norm"]):
        # An error of our own goes through main(), which the runner here does not call.
        assert isinstance(CliRunner().invoke(cli, [*words, *wrong]).exception, InvalidOption)


@pytest.mark.parametrize("scale", [0.25, -3.0])
@pytest.mark.parametrize("method", ["lego", "svd"])
def test_the_output_scale_multiplies_the_update(method: str, scale: float, tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    merge(zoo, tmp_path / "m", rank=5, method=method, output_scale=1)
    options = {"method": method, "output_scale": scale, "catalog": tmp_path / "catalog"}
    merge(zoo, tmp_path / "scaled", rank=5, **options)
    wanted = {site: scale * part for site, part in update_of(tmp_path / "m").items()}
    assert relative_error(update_of(tmp_path / "scaled"), wanted) < F32_ROUNDING
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT * FROM merge_sites").to_pylist()
    kept = {row["site"]: row for row in rows}
    for site in lego_ray.verify(tmp_path / "scaled", sources=zoo)["errors"]["sites"]:
        row = kept[site["site"]]
        assert row["relative_error"] == pytest.approx(site["relative_error_to_sum"], rel=1e-6)
        assert row["norm_ratio"] == pytest.approx(site["norm_ratio"], rel=1e-6)
