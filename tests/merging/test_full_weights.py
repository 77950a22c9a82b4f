"""Weights that are not low-rank: refused, dropped with a note, or kept from one named adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import lego_ray
from lego_ray.errors import InvalidOption, NoAdaptersFound
from tests.formats.tiny_peft import TinyModel, edit_config, save, train
from tests.zoo import CONFIG, WEIGHTS, weights_of


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters with a trained head of their own and one without, as PEFT saves them."""
    root = tmp_path_factory.mktemp("heads")
    for seed, name in ((1, "red"), (2, "blue")):
        options: dict[str, Any] = {
            "target_modules": ["q_proj", "v_proj"],
            "modules_to_save": ["score"],
        }
        save(train(seed=seed, **options), root / name)
    save(train(seed=3, target_modules=["q_proj", "v_proj"]), root / "bare")
    return root


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    return lego_ray.merge(zoo, rank=4, output=output, runner="inline", **options)


def test_they_are_refused_unless_asked_for(zoo: Path, tmp_path: Path) -> None:
    record = merge(zoo, tmp_path / "m")
    assert [Path(a).name for a in record["adapters"]] == ["bare"]
    for refused in record["refused"]:
        assert "--full-weights drop" in refused["reason"]
        assert "--full-weights keep:NAME" in refused["reason"]


def test_dropped_they_are_noted_and_not_written(zoo: Path, tmp_path: Path) -> None:
    record = merge(zoo, tmp_path / "m", full_weights="drop")
    assert len(record["adapters"]) == 3
    assert not [key for key in load_file(tmp_path / "m" / WEIGHTS) if "score" in key]
    assert json.loads((tmp_path / "m" / CONFIG).read_text())["modules_to_save"] is None
    manifest = json.loads((tmp_path / "m" / "lego_ray_manifest.json").read_text())
    noted = {Path(s["uri"]).name: bool(s["notes"]) for s in manifest["sources"]}
    assert noted == {"red": True, "blue": True, "bare": False}


def test_kept_they_are_those_of_the_adapter_named(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m", full_weights="keep:blue")
    blue = load_file(zoo / "blue" / WEIGHTS)
    merged = load_file(tmp_path / "m" / WEIGHTS)
    heads = [key for key in blue if "score" in key]
    assert len(heads) == 2
    assert all(torch.equal(merged[key], blue[key]) for key in heads)
    model = PeftModel.from_pretrained(TinyModel(), str(tmp_path / "m"))
    inner: Any = model.base_model.model
    head = inner.score.modules_to_save["default"]
    assert torch.equal(head.weight, blue["base_model.model.score.weight"])


def test_kept_or_dropped_the_low_rank_part_is_the_same(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "kept", full_weights="keep:blue")
    merge(zoo, tmp_path / "dropped", full_weights="drop")
    kept, dropped = (load_file(tmp_path / n / WEIGHTS) for n in ("kept", "dropped"))
    assert all(torch.equal(kept[key], dropped[key]) for key in dropped)


def test_kept_in_any_cut_into_tasks(zoo: Path, tmp_path: Path) -> None:
    plan = lego_ray.plan(zoo, rank=4, full_weights="keep:red")
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    merge(zoo, tmp_path / "whole", full_weights="keep:red")
    merge(zoo, tmp_path / "cut", full_weights="keep:red", memory_budget=budget)
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_kept_they_verify(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m", full_weights="keep:red")
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["ok"]


def test_a_name_that_is_not_there_is_bad_input(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(NoAdaptersFound, match="keep:green"):
        merge(zoo, tmp_path / "m", full_weights="keep:green")
    assert not (tmp_path / "m").exists()


def test_a_name_that_several_adapters_have_is_no_choice(zoo: Path, tmp_path: Path) -> None:
    for folder, name in (("one", "red"), ("two", "blue")):
        shutil.copytree(zoo / name, tmp_path / "zoo" / folder / "head")
    with pytest.raises(InvalidOption, match="2 adapters are called head"):
        merge(tmp_path / "zoo", tmp_path / "m", full_weights="keep:head")
    chosen = tmp_path / "zoo" / "one" / "head"
    merge(tmp_path / "zoo", tmp_path / "m", full_weights=f"keep:{chosen}")
    red, merged = load_file(chosen / WEIGHTS), load_file(tmp_path / "m" / WEIGHTS)
    assert all(torch.equal(merged[key], red[key]) for key in red if "score" in key)


def test_a_refused_adapter_that_was_to_keep_its_weights_is_explained(
    zoo: Path, tmp_path: Path
) -> None:
    shutil.copytree(zoo, tmp_path / "zoo")
    edit_config(tmp_path / "zoo" / "red", use_dora=True)
    with pytest.raises(NoAdaptersFound, match=r"red was refused: .*DoRA"):
        merge(tmp_path / "zoo", tmp_path / "m", full_weights="keep:red")
