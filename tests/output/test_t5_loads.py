"""LoRAs of T5, a text encoder of Stable Diffusion 3 and of Flux, run by transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

import lego_ray
from tests.lone_zoo import load, tensors_of, total, updates_of, write

# Float32 all the way through a model of one layer.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
WITHOUT_PREFIX: Any = single_file_utils.convert_sd3_t5_checkpoint_to_diffusers
BLOCK = "encoder.block.0.layer"
MODULES = {
    f"{BLOCK}.0.SelfAttention.q": (8, 8),
    f"{BLOCK}.0.SelfAttention.o": (8, 8),
    f"{BLOCK}.1.DenseReluDense.wi_1": (8, 16),
    f"{BLOCK}.1.DenseReluDense.wo": (16, 8),
}
# What tools call T5: kohya's of Flux and Stable Diffusion 3, OneTrainer's of Flux, ComfyUI's.
PREFIXES = ("lora_te3_", "lora_te2_", "text_encoders.t5xxl.transformer.")


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=20,
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    model: Any = transformers.T5EncoderModel(config)
    return model.eval()


def output_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(12)[None] % 20).last_hidden_state
    return found


@pytest.mark.parametrize("layout", ["comfyui", "kohya"])
def test_a_merge_of_all_its_names_does_what_its_sources_do_together(
    layout: str, tmp_path: Path
) -> None:
    parts = []
    for number, prefix in enumerate(PREFIXES):
        is_flat = prefix.endswith("_")
        denoiser = "double_blocks.0.img_attn.proj"
        unet = (
            "lora_unet_double_blocks_0_img_attn_proj" if is_flat else f"diffusion_model.{denoiser}"
        )
        modules = {prefix + (m.replace(".", "_") if is_flat else m): s for m, s in MODULES.items()}
        ends = "down_up" if is_flat else "a_b"
        part = tensors_of({**modules, unet: (8, 8)}, ends=ends, alpha=1.0, seed=number)
        write(tmp_path / "zoo" / f"{number}.safetensors", part)
        parts.append(
            {
                name.removeprefix(prefix).replace(".", "_"): update
                for name, update in updates_of(part).items()
                if name.startswith(prefix)
            }
        )
    options: dict[str, Any] = {"method": "concat", "rank": 24, "runner": "inline", "dtype": "F32"}
    options |= {"layout": layout, "base_model": "black-forest-labs/FLUX.1-dev"}
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "out", **options)
    merged = load(tmp_path / "out")
    base = t5()
    together = copy.deepcopy(base)
    wanted = total(*parts)
    assert len(wanted) == len(MODULES)
    for module in MODULES:
        weight = together.get_submodule(module).weight
        weight.data += torch.from_numpy(wanted[module.replace(".", "_")]).float()
    if layout == "kohya":  # sd-scripts flattens the names of modules, so they are found by that
        assert {key.split("_encoder_")[0] for key in merged if "encoder" in key} == {"lora_te3"}
        named = {f"lora_te3_{module.replace('.', '_')}": module for module in MODULES}
        merged = {
            f"text_encoders.t5xxl.transformer.{named[m]}.{suffix}": tensor
            for key, tensor in merged.items()
            for m, _, suffix in [key.partition(".")]
            if m in named and suffix != "alpha"
        }
        renamed = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
        for key in list(merged):
            for old, new in renamed.items():
                if key.endswith(old):
                    merged[key.replace(old, new)] = merged.pop(key)
    state = {f"base_model.model.{key}": t for key, t in WITHOUT_PREFIX(merged).items()}
    rank = next(len(t) for key, t in state.items() if key.endswith("lora_A.weight"))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(MODULES))
    adapted = get_peft_model(base, config)
    result: Any = set_peft_model_state_dict(adapted, state)
    assert len(state) == 2 * len(MODULES)
    assert not result.unexpected_keys
    got = output_of(adapted)
    torch.testing.assert_close(got, output_of(together), **CLOSE)
    assert float((got - output_of(t5())).abs().max()) > 1e-2
