"""PEFT's configuration of a lone file, in its header or beside it, against diffusers' own loading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import LoHaConfig, LoKrConfig, LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import MalformedAdapter, RankMismatch
from tests.formats.lone import read
from tests.lone_zoo import tensors_of, updates_of, write
from tests.zoo import relative_error

# Factors and their products in float32.
ROUNDING = 64 * 2.0**-24
FILE = "pytorch_lora_weights.safetensors"
MODULE = "diffusion_model.blocks.0.attn1.to_q"


def flux() -> Any:
    made: Any = FluxTransformer2DModel
    return made(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )


def deltas(model: Any) -> dict[str, np.ndarray]:
    """The updates that a model with one adapter computes."""
    found = {}
    for name, layer in model.named_modules():
        for adapter in getattr(layer, "scaling", ()):
            with torch.no_grad():
                found[name] = layer.get_delta_weight(adapter).double().numpy()
    return found


def merged(place: Path, output: Path, rank: int) -> dict[str, np.ndarray]:
    """The updates of a merge of one adapter, by module without a component."""
    made = lego_ray.merge(place, output=output, rank=rank, method="concat", runner="inline")
    assert not made.refused
    [file] = output.glob("*.safetensors")
    return {
        name.removeprefix("transformer.").removeprefix("diffusion_model."): update
        for name, update in updates_of(load_file(file)).items()
    }


KINDS: dict[str, Any] = {
    "lokr": LoKrConfig(r=2, alpha=8, target_modules=["to_q"], init_weights=False),
    "lokr of whole matrices": LoKrConfig(
        r=16, alpha=8, target_modules=["to_q"], init_weights=False
    ),
    "loha": LoHaConfig(r=2, alpha=5, target_modules=["to_k"], init_weights=False),
    "lora": LoraConfig(r=2, lora_alpha=5, target_modules=["to_k"], init_lora_weights=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_of_diffusers_saves_is_what_it_loads(kind: str, tmp_path: Path) -> None:
    model = flux()
    model.add_adapter(KINDS[kind])
    model.save_lora_adapter(tmp_path / "zoo")
    ours = merged(tmp_path / "zoo", tmp_path / "out", 32)
    assert relative_error(ours, deltas(model)) < ROUNDING
    if kind != "loha":  # which diffusers saves, and does not load
        again = flux()
        again.load_lora_adapter(tmp_path / "zoo", prefix=None, weight_name=FILE)
        assert relative_error(ours, deltas(again)) < ROUNDING


def test_a_pipeline_s_file_with_the_settings_of_a_component(tmp_path: Path) -> None:
    model = flux()
    model.add_adapter(KINDS["lokr"])
    fields = json.loads(header(saved(model, tmp_path / "one"))["lora_adapter_metadata"])
    tensors = {f"transformer.{k}": v for k, v in get_peft_model_state_dict(model).items()}
    settings = {f"transformer.{name}": value for name, value in fields.items()}
    (tmp_path / "zoo").mkdir()
    write(tmp_path / "zoo" / FILE, tensors, lora_adapter_metadata=json.dumps(settings))
    ours = merged(tmp_path / "zoo", tmp_path / "out", 32)
    assert relative_error(ours, deltas(model)) < ROUNDING


def saved(model: Any, folder: Path) -> Path:
    model.save_lora_adapter(folder)
    return folder / FILE


def header(file: Path) -> Mapping[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize("kind", KINDS)
def test_comfyui_s_names_beside_peft_s_configuration(kind: str, tmp_path: Path) -> None:
    """As diffusion-pipe saves: the configuration by PEFT, and the tensors for ComfyUI."""
    model = flux()
    model.add_adapter(KINDS[kind])
    tensors = {f"diffusion_model.{k}": v for k, v in get_peft_model_state_dict(model).items()}
    folder = tmp_path / "zoo" / "epoch10"
    KINDS[kind].save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    ours = merged(tmp_path / "zoo", tmp_path / "out", 32)
    assert relative_error(ours, deltas(model)) < ROUNDING
    [adapter] = lego_ray.scan(tmp_path / "zoo").adapters
    assert Path(adapter["uri"]) == folder
    assert adapter["format"] == "comfyui"
    [shown] = lego_ray.inspect(folder).found
    assert (shown.status, shown.layout) == ("taken", "comfyui")


def test_epochs_beside_each_other_are_one_run(tmp_path: Path) -> None:
    for number, name in enumerate(("epoch1", "epoch2", "other")):
        folder = tmp_path / "zoo" / name
        KINDS["lora"].save_pretrained(folder)
        tensors = tensors_of([MODULE], seed=number)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "zoo" / "latest").write_bytes(b"epoch2")
    record = lego_ray.scan(tmp_path / "zoo")
    assert sorted(Path(a["uri"]).name for a in record.adapters) == ["epoch2", "other"]


def test_a_rank_that_the_configuration_beside_it_contradicts_names_that_file(
    tmp_path: Path,
) -> None:
    write(tmp_path / "adapter_model.safetensors", tensors_of([MODULE]))
    config = json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 3}).encode()
    with pytest.raises(RankMismatch, match=r"adapter_config\.json gives .* rank 3"):
        read(tmp_path / "adapter_model.safetensors", config=config)


def test_bare_names_beside_peft_s_configuration_are_still_refused(tmp_path: Path) -> None:
    """PEFT reads such a file, and applies none of it."""
    write(tmp_path / "adapter_model.safetensors", tensors_of(["blocks.0.attn1.to_q"]))
    config = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}).encode()
    with pytest.raises(MalformedAdapter, match=r"lack the prefix base_model\.model"):
        read(tmp_path / "adapter_model.safetensors", config=config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [6.0, 0.3])
def test_alpha_may_be_given_twice_if_both_agree(
    alpha: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    """As SimpleTuner saves for ComfyUI."""
    tensors = tensors_of([MODULE])
    [update] = updates_of(tensors).values()
    tensors[f"{MODULE}.alpha"] = torch.tensor(alpha, dtype=dtype)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": alpha}
    (tmp_path / "zoo").mkdir()
    write(tmp_path / "zoo" / FILE, tensors, lora_adapter_metadata=json.dumps(settings))
    [ours] = merged(tmp_path / "zoo", tmp_path / "out", 2).values()
    rounding = ROUNDING if dtype == torch.float32 else 2.0**-8
    assert relative_error({MODULE: ours}, {MODULE: alpha / 2 * update}) < rounding


def test_two_alphas_that_differ_are_refused_and_both_named(tmp_path: Path) -> None:
    write(
        tmp_path / "zoo" / "bad.safetensors",
        tensors_of([MODULE], alpha=4.0),
        lora_adapter_metadata=json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6}),
    )
    write(tmp_path / "zoo" / "good.safetensors", tensors_of([MODULE]))
    made = lego_ray.merge(tmp_path / "zoo", output=tmp_path / "out", rank=4, runner="inline")
    [refused] = made.refused
    assert "MalformedAdapter" in refused["reason"]
    assert "is 4" in refused["reason"]
    assert "alpha of 6" in refused["reason"]
