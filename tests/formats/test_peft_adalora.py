"""AdaLoRA as PEFT saves it, before and after ranks were cut, against PEFT's own update."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import MalformedAdapter, RankMismatch
from tests.formats.tiny_peft import TinyModel, edit_config, our_deltas, peft_deltas, read
from tests.zoo import relative_error

ROUNDING = 16 * 2.0**-24
SITES = [f"layers.{layer}.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")]
FILE = "adapter_model.safetensors"


def train(path: Path, seed: int = 1, *, cut: bool = False, **options: Any) -> PeftModel:
    """Saves an AdaLoRA with random factors; `cut` keeps some ranks of each module, of one none."""
    fields: dict[str, Any] = {
        "init_r": 6,
        "target_r": 3,
        "total_step": 10,
        "lora_alpha": 9,
        "target_modules": ["q_proj", "v_proj"],
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(TinyModel(), AdaLoraConfig(**fields))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if cut:
            tuner: Any = model.base_model
            kept = (1, 4, 6, 0)
            pattern = {
                f"{site}.lora_E.default": [rank < k for rank in range(6)]
                for site, k in zip(SITES, kept, strict=True)
            }
            tuner.resize_modules_by_rank_pattern(pattern, "default")
            model.peft_config["default"].rank_pattern = pattern  # type: ignore[attr-defined]
        model.save_pretrained(str(path))
    return edit_config_of(path, model)


def edit_config_of(path: Path, model: PeftModel) -> PeftModel:
    edit_config(path, base_model_name_or_path="tiny/base")
    return model


def deltas(model: PeftModel) -> dict[str, Any]:
    """PEFT's own, of the modules that it changes."""
    found = {site: delta.double().numpy() for site, delta in peft_deltas(model).items()}
    return {site: delta for site, delta in found.items() if delta.any()}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 50}}], ids=str
)
def test_the_update_is_pefts(options: dict[str, Any], cut: bool, tmp_path: Path) -> None:
    train(tmp_path / "a", cut=cut, **options)
    record = read(tmp_path / "a")
    ours = {s: d.double().numpy() for s, d in our_deltas(tmp_path / "a", record).items()}
    loaded = PeftModel.from_pretrained(TinyModel(), str(tmp_path / "a"))
    assert relative_error(ours, deltas(loaded)) < ROUNDING
    assert record.ranks == ((1, 4, 6) if cut else (6, 6, 6, 6))
    assert bool(record.notes) is cut


def test_a_merge_of_some_with_a_lora_is_the_sum(tmp_path: Path) -> None:
    from tests.formats.tiny_peft import save
    from tests.formats.tiny_peft import train as train_lora

    train(tmp_path / "zoo" / "a", 1, cut=True)
    train(tmp_path / "zoo" / "b", 2)
    lora = train_lora(seed=3, target_modules=["q_proj"])
    save(lora, tmp_path / "zoo" / "c")
    edit_config(tmp_path / "zoo" / "c", base_model_name_or_path="tiny/base")
    wanted: dict[str, Any] = {}
    for each in "abc":
        loaded = PeftModel.from_pretrained(TinyModel(), str(tmp_path / "zoo" / each))
        for site, delta in deltas(loaded).items():
            wanted[site] = wanted.get(site, 0) + delta
    lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "m", rank=16, method="concat", runner="inline"
    )
    merged = PeftModel.from_pretrained(TinyModel(), str(tmp_path / "m"))
    assert relative_error(deltas(merged), wanted) < ROUNDING
    assert json.loads((tmp_path / "m" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert lego_ray.verify(tmp_path / "m")


def test_one_without_its_diagonal_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / FILE)
    del tensors[f"base_model.model.{SITES[0]}.lora_E"]
    save_file(tensors, tmp_path / "a" / FILE, {"format": "pt"})
    with pytest.raises(MalformedAdapter, match="no diagonal lora_E"):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"init_r": 5}, RankMismatch, "its configuration keeps 5 ranks"),
        ({"init_r": 0}, MalformedAdapter, "init_r is"),
        ({"rank_pattern": {"q_proj": 3}}, MalformedAdapter, "is not a list of true and false"),
        ({"rank_pattern": [1]}, MalformedAdapter, "expected an object"),
    ],
)
def test_what_contradicts_itself_is_refused(
    fields: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    train(tmp_path / "a")
    edit_config(tmp_path / "a", **fields)
    with pytest.raises(error, match=said):
        read(tmp_path / "a")
