"""The real adapters this repository keeps: as many, as different and as small as promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import lego_ray
from tests.zoo import CONFIG, REAL_ZOO, real_adapters

LARGEST = 1_500_000
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def described() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Configuration and training record of each, by name."""
    return {
        path.name: (
            json.loads((path / CONFIG).read_text()),
            json.loads((path / "meta.json").read_text()),
        )
        for path in real_adapters()
    }


def test_the_zoo_has_what_the_merge_is_to_be_tried_on() -> None:
    by_name = described()
    plain = {n: m for n, (c, m) in by_name.items() if c["r"] == 8 and not c["use_rslora"]}
    seeds = [meta["seed"] for meta in plain.values()]
    shared = {n: m for n, m in plain.items() if seeds.count(m["seed"]) > 1}
    apart = {n: m for n, m in plain.items() if n not in shared}
    assert len(apart) >= 5
    assert len({m["task"] for m in apart.values()}) == len(apart)
    assert len({m["seed"] for m in apart.values()}) == len(apart)
    assert len(shared) >= 3
    assert len({m["seed"] for m in shared.values()}) == 1
    assert len({m["task"] for m in shared.values()}) == len(shared)
    assert any(c["r"] == 4 for c, _ in by_name.values())
    assert any(c["use_rslora"] for c, _ in by_name.values())


def test_each_has_its_head_and_is_small() -> None:
    for path in real_adapters():
        head = load_file(path / "head.safetensors")
        assert head["weight"].shape[1] == 384
        assert head["bias"].shape == head["weight"].shape[:1]
        assert sum(file.stat().st_size for file in path.iterdir()) <= LARGEST


def test_each_was_worth_training() -> None:
    for name, (_, meta) in described().items():
        accuracy = meta["accuracy"]
        assert accuracy["adapter"]["test"] > accuracy["base"]["test"], name


def test_no_text_is_kept() -> None:
    kept = {CONFIG, "adapter_model.safetensors", "head.safetensors", "meta.json", "README.md"}
    for path in real_adapters():
        assert {file.name for file in path.iterdir()} <= kept


def test_all_are_taken_as_adapters_of_one_base_model() -> None:
    record = lego_ray.scan(REAL_ZOO)
    assert record["refused"] == []
    assert {Path(a["uri"]) for a in record["adapters"]} == set(real_adapters())
    assert {a["base_model"] for a in record["adapters"]} == {MINILM}
    assert {a["n_sites"] for a in record["adapters"]} == {36}
