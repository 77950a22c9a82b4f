"""Adapters of `nn.MultiheadAttention`, whose out_proj has the rank and alpha of the attention."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import lego_ray
from tests.formats.tiny_experts import BASE, Updates, edit, total
from tests.zoo import relative_error

ROUNDING = 16 * 2.0**-24


class TinyAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = nn.MultiheadAttention(16, 2)
        self.lin = nn.Linear(16, 16)


def train(path: Path, seed: int, **options: Any) -> Updates:
    """Saves an adapter with random factors; what PEFT adds to each weight for it."""
    config = {"r": 2, "lora_alpha": 2, "target_modules": ["attn", "lin"], **options}
    made = get_peft_model(TinyAttention(), LoraConfig(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_pretrained(str(path))
    edit(path, base_model_name_or_path=BASE)
    return updates(path, may_warn=True)


def updates(path: Path, *, may_warn: bool = False) -> Updates:
    base = {key: value.clone() for key, value in TinyAttention().double().state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if may_warn else "error")
        warnings.filterwarnings("ignore", message=".*config.*not found.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        loaded = PeftModel.from_pretrained(
            TinyAttention().double(), str(path), autocast_adapter_dtype=False
        )
    after = loaded.double().merge_and_unload().state_dict()
    return {k: (after[k] - v).numpy() for k, v in base.items() if not torch.equal(after[k], v)}


def merge(source: Path, output: Path, **options: Any) -> dict[str, Any]:
    return lego_ray.merge(source, output=output, **{"runner": "inline", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"alpha_pattern": {"attn": 64}},
        {"alpha_pattern": {"out_proj": 64}},  # which PEFT does not look up
        {"rank_pattern": {"attn": 4}},
        {"rank_pattern": {"attn": 4}, "alpha_pattern": {"attn": 9}, "use_rslora": True},
    ],
    ids=str,
)
def test_patterns_speak_for_the_attention_and_its_projection(
    options: dict[str, Any], tmp_path: Path
) -> None:
    wanted = train(tmp_path / "zoo" / "a", 1, **options)
    assert len(wanted) == 3
    merge(tmp_path / "zoo", tmp_path / "m", rank=4, method="concat")
    assert relative_error(updates(tmp_path / "m"), wanted) < ROUNDING


def test_a_compact_merge_loads_without_a_warning(tmp_path: Path) -> None:
    a = train(tmp_path / "zoo" / "a", 1)
    b = train(tmp_path / "zoo" / "b", 2, r=3, target_modules=["lin"])
    merge(tmp_path / "zoo", tmp_path / "m", rank=5, method="concat", compact=True)
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"attn": 2}
    assert relative_error(updates(tmp_path / "m"), total(a, b)) < ROUNDING


def test_both_are_stored_at_one_rank_where_a_budget_gives_them_two(tmp_path: Path) -> None:
    train(tmp_path / "zoo" / "a", 1)
    train(tmp_path / "zoo" / "b", 2, r=3, target_modules=["lin"])
    record = merge(tmp_path / "zoo", tmp_path / "m", rank_budget=2, method="svd")
    ranks = record["ranks"]
    assert ranks["attn"] != ranks["attn.base_layer.out_proj"]
    made = updates(tmp_path / "m")
    assert {key: torch.linalg.matrix_rank(torch.tensor(each)) for key, each in made.items()} == {
        "attn.in_proj_weight": ranks["attn"],
        "attn.out_proj.weight": ranks["attn.base_layer.out_proj"],
        "lin.weight": ranks["lin"],
    }
