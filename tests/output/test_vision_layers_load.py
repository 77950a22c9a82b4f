"""Adapters of vision models from before transformers 5 and since, merged and loaded by PEFT."""

from __future__ import annotations

import re
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
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
TARGETS = ["q_proj", "o_proj", "fc2"]
# Names of today by expressions, and what each was called before.
OLD = {
    "ViT": [
        (r"\.layers\.(\d)\.attention\.q_proj", r".encoder.layer.\1.attention.attention.query"),
        (r"\.layers\.(\d)\.attention\.o_proj", r".encoder.layer.\1.attention.output.dense"),
        (r"\.layers\.(\d)\.mlp\.fc2", r".encoder.layer.\1.output.dense"),
    ],
    "Dinov2": [
        (r"\.attention\.q_proj", ".attention.attention.query"),
        (r"\.attention\.o_proj", ".attention.output.dense"),
    ],
}


def vision(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**_SIZES, intermediate_size=24, num_labels=3)
    made: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    return made


def train(name: str, path: Path, seed: int) -> Updates:
    """Saves an adapter with random factors; what PEFT adds to each weight for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(vision(name), LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                if "lora_" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        made.save_pretrained(str(path))
    edit(path, base_model_name_or_path=BASE)
    return updates(name, path)


def updates(name: str, path: Path) -> Updates:
    base = {key: value.clone() for key, value in vision(name).double().state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*config.*not found.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        loaded = PeftModel.from_pretrained(vision(name).double(), str(path))
    merged: Any = loaded.double().merge_and_unload()
    changed = {key: (value - base[key]).numpy() for key, value in merged.state_dict().items()}
    return {key: change for key, change in changed.items() if change.any()}


@pytest.mark.parametrize("name", list(OLD))
def test_both_names_of_layers_merge_into_todays(name: str, tmp_path: Path) -> None:
    wanted = total(*(train(name, tmp_path / "zoo" / f"a{seed}", seed) for seed in (1, 2)))
    file = tmp_path / "zoo" / "a1" / FILE
    tensors = load_file(file)
    for new, old in OLD[name]:
        tensors = {re.sub(new, old, key): tensor for key, tensor in tensors.items()}
    save_file(tensors, file, {"format": "pt"})
    targets = {key.partition(".lora_")[0].rpartition(".")[2] for key in tensors}
    edit(file.parent, target_modules=sorted(targets))
    record = lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "m", rank=4, method="concat", runner="inline"
    )
    assert any("spelled otherwise in the merge" in each for each in record["warnings"])
    assert record["sites"] == 6
    assert relative_error(updates(name, tmp_path / "m"), wanted) < ROUNDING
