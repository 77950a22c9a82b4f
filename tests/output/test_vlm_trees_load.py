"""Adapters of both module trees of a vision-language model, merged and loaded by PEFT on today's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

import lego_ray
from tests.formats.tiny_experts import BASE, Updates, edit, total
from tests.zoo import relative_error

ROUNDING = 16 * 2.0**-24
FILE = "adapter_model.safetensors"
_TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
_VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
# How each model's keys were called before transformers 4.52, by how they are called now.
OLD = {
    "Llava": {"model.language_model.": "language_model.model.", "model.vision": "vision"},
    "Qwen2_5_VL": {"model.language_model.": "model.", "model.visual.": "visual."},
}
# A module of the vision tower, by PEFT's rule of suffixes.
TOWER = {"Llava": "mlp.fc1", "Qwen2_5_VL": "attn.qkv"}


def vlm(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "Llava":
        text = {**_TEXT, "model_type": "llama"}
        vision = {**_VISION, "model_type": "clip_vision_model", "num_attention_heads": 2}
        config: Any = transformers.LlavaConfig(
            text_config=text, vision_config={**vision, "image_size": 8, "patch_size": 4}
        )
    else:
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
        rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
        config = transformers.Qwen2_5_VLConfig(
            text_config={**_TEXT, "rope_scaling": rope},
            vision_config={**vision, "out_hidden_size": 16, "fullatt_block_indexes": [0]},
        )
    made: nn.Module = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    return made


def train(name: str, path: Path, seed: int) -> Updates:
    """Saves an adapter of the language model and the tower; what PEFT adds to each weight for it."""
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj", TOWER[name]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(vlm(name), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                if "lora_" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        made.save_pretrained(str(path))
    edit(path, base_model_name_or_path=BASE)
    return updates(name, path)


def updates(name: str, path: Path) -> Updates:
    base = {key: value.clone() for key, value in vlm(name).double().state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*config.*not found.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        loaded = PeftModel.from_pretrained(vlm(name).double(), str(path))
    merged: Any = loaded.double().merge_and_unload()
    changed = {key: (value - base[key]).numpy() for key, value in merged.state_dict().items()}
    return {key: change for key, change in changed.items() if change.any()}


def as_before_452(name: str, path: Path) -> None:
    """Gives the adapter's keys the names of the old tree."""
    tensors = load_file(path / FILE)
    for new, old in OLD[name].items():
        tensors = {
            key.replace(f"base_model.model.{new}", f"base_model.model.{old}"): tensor
            for key, tensor in tensors.items()
        }
    save_file(tensors, path / FILE, {"format": "pt"})


@pytest.mark.parametrize("name", list(OLD))
def test_both_trees_merge_into_todays(name: str, tmp_path: Path) -> None:
    wanted = total(*(train(name, tmp_path / "zoo" / f"a{seed}", seed) for seed in (1, 2)))
    as_before_452(name, tmp_path / "zoo" / "a1")
    record = lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "m", rank=4, method="concat", runner="inline"
    )
    assert any("spelled otherwise in the merge" in each for each in record["warnings"])
    assert relative_error(updates(name, tmp_path / "m"), wanted) < ROUNDING


def test_adapters_of_the_old_tree_alone_keep_their_names(tmp_path: Path) -> None:
    for seed in (1, 2):
        train("Llava", tmp_path / "zoo" / f"a{seed}", seed)
        as_before_452("Llava", tmp_path / "zoo" / f"a{seed}")
    lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "m", rank=4, method="concat", runner="inline"
    )
    assert load_file(tmp_path / "m" / FILE).keys() == load_file(tmp_path / "zoo/a1" / FILE).keys()


def test_an_update_takes_an_adapter_of_the_other_tree(tmp_path: Path) -> None:
    wanted = total(*(train("Llava", tmp_path / f"a{seed}", seed) for seed in (1, 2)))
    lego_ray.merge(
        tmp_path / "a1",
        output=tmp_path / "m",
        rank=4,
        updatable=True,
        runner="inline",
        output_reweight="none",
    )
    as_before_452("Llava", tmp_path / "a2")
    lego_ray.update(tmp_path / "m", add=[tmp_path / "a2"], output=tmp_path / "n", runner="inline")
    assert updates("Llava", tmp_path / "n").keys() == wanted.keys()
