"""A key of a lone file is a prefix, a path and a suffix: every combination is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lego_ray
from lego_ray.errors import MalformedAdapter, NoAdaptersFound, UnsupportedAdapter
from lego_ray.formats.comfyui import OF_PEFT
from lego_ray.formats.suffixes import parse_suffix
from tests.formats.lone import read, updates
from tests.lone_zoo import ENDS, tensors_of, updates_of, write
from tests.zoo import relative_error

PREFIXES = {
    "diffusion_model.blocks.0.self_attn.q": "comfyui",
    "model.diffusion_model.blocks.0.self_attn.q": "comfyui",
    "pipe.dit.blocks.0.self_attn.q": "comfyui",
    "blocks.0.self_attn.q": "comfyui",
    "transformer_blocks.0.attn.to_q": "comfyui",
    "double_blocks.0.img_attn.qkv": "comfyui",
    "layers.0.attention.qkv": "comfyui",
    "blocks.0.attn.wq": "comfyui",
    "base_model.model.blocks.0.attn.wq": "comfyui",
    "layers.0.self_attention.to_q": "comfyui",
    "double_stream_layers.0.img_self_attn.to_q": "comfyui",
    "base_model.model.transformer_blocks.0.attn.to_q": "comfyui",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": "comfyui",
    "transformer.transformer_blocks.0.attn.to_q": "diffusers",
    "transformer_2.blocks.0.attn1.to_q": "diffusers",
    "unet.down_blocks.0.attentions.0.proj_in": "diffusers",
    "lora_unet_blocks_0_self_attn_q": "kohya",
    "lora_unet__blocks_0_self_attn_q": "kohya",
    "lora_transformer_transformer_blocks_0_attn_to_q": "kohya",
    "lora_prior_unet_down_blocks_0_0": "kohya",
    "lora_prior_te_text_model_encoder_layers_0_mlp_fc1": "kohya",
    "lycoris_transformer_blocks_0_attn_to_q": "kohya",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": "kohya",
}


@pytest.mark.parametrize("ends", [name for name in ENDS if name != "xlabs"])
@pytest.mark.parametrize("module", PREFIXES)
def test_any_prefix_goes_with_any_suffix(module: str, ends: str, tmp_path: Path) -> None:
    for alpha in (None, 3.0):
        tensors = tensors_of([module], ends=ends, alpha=alpha)
        file = write(tmp_path / "a.safetensors", tensors)
        record = read(file)
        assert [site.site for site in record.sites] == [module]
        is_kohya = ends == "down_up" and not module.startswith("base_model")
        wanted = "kohya" if is_kohya else PREFIXES[module]
        assert record.format == wanted
        # The values are those of the tensors, whatever they are called.
        [got], [update] = updates(file, record).values(), updates_of(tensors).values()
        assert relative_error({module: got}, {module: update}) == 0
        assert (OF_PEFT in record.notes) == (
            wanted == "comfyui" and module.startswith("base_model") and alpha is None
        )


def test_xlabs_names_are_kept(tmp_path: Path) -> None:
    modules = [
        "double_blocks.0.processor.qkv_lora1",
        "double_blocks.0.processor.proj_lora2",
        "single_blocks.3.processor.qkv_lora",
    ]
    record = read(write(tmp_path / "a.safetensors", tensors_of(modules, ends="xlabs")))
    assert (record.format, [site.site for site in record.sites]) == ("xlabs", sorted(modules))


def test_settings_of_a_component_that_the_keys_do_not_name_are_reported(tmp_path: Path) -> None:
    tensors = tensors_of(["diffusion_model.transformer_blocks.0.attn.to_q"], rank=2)
    for alpha, said in ((8, True), (2, False)):
        settings = json.dumps({"transformer.r": 2, "transformer.lora_alpha": alpha})
        file = write(tmp_path / f"{alpha}.safetensors", tensors, lora_adapter_metadata=settings)
        record = read(file)
        assert any("alpha for transformer" in note for note in record.notes) is said
        [got], [update] = updates(file, record).values(), updates_of(tensors).values()
        assert relative_error({"q": got}, {"q": update}) == 0


@pytest.mark.parametrize("module", ["another_transformer.layers.0.attention.qkv", "blocks.0.x"])
def test_the_hint_for_other_names_can_be_followed(module: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedAdapter, match="begin with diffusion_model"):
        read(write(tmp_path / "a.safetensors", tensors_of([module])))
    with pytest.raises(NoAdaptersFound, match="begin with diffusion_model"):
        lego_ray.merge(tmp_path, output=tmp_path / "m", runner="inline", rank=2)
    plain = f"diffusion_model.{module.removeprefix('another_transformer.')}"
    record = read(write(tmp_path / "b.safetensors", tensors_of([plain])))
    assert [site.site for site in record.sites] == [plain]


def test_a_prefix_of_ideogram_4_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    name = "conditional_transformer.layers.0.attention.qkv"
    record = read(write(tmp_path / "a.safetensors", tensors_of([name])))
    assert [site.site for site in record.sites] == [name]
    assert record.format == "comfyui"


def test_ai_toolkits_magnitudes_are_named_as_dora(tmp_path: Path) -> None:
    module = "diffusion_model.blocks.0.self_attn.q"
    tensors = {**tensors_of([module]), f"{module}.magnitude": torch.ones(8)}
    with pytest.raises(UnsupportedAdapter, match="DoRA"):
        read(write(tmp_path / "a.safetensors", tensors))


def test_wrappers_names_are_left_out(tmp_path: Path) -> None:
    tensors = tensors_of(["diffusion_model._orig_mod.blocks.0.self_attn.q"])
    record = read(write(tmp_path / "a.safetensors", tensors))
    assert record.sites[0].site == "diffusion_model.blocks.0.self_attn.q"
    both = {**tensors, **tensors_of(["diffusion_model.blocks.0.self_attn.q"])}
    with pytest.raises(MalformedAdapter, match="name one tensor"):
        read(write(tmp_path / "b.safetensors", both))


def test_two_names_of_one_module_in_a_file_are_refused(tmp_path: Path) -> None:
    names = ["diffusion_model.blocks.0.self_attn.q", "blocks.0.self_attn.q"]
    with pytest.raises(MalformedAdapter, match="one module in two spellings"):
        read(write(tmp_path / "a.safetensors", tensors_of(names)))


def test_an_alpha_of_no_module_and_tensors_of_no_lora_are_refused(tmp_path: Path) -> None:
    tensors = tensors_of(["diffusion_model.blocks.0.self_attn.q"])
    more = {**tensors, "diffusion_model.blocks.1.self_attn.q.alpha": torch.tensor(1.0)}
    with pytest.raises(MalformedAdapter, match=r"blocks\.1\.self_attn\.q\.alpha is of no site"):
        read(write(tmp_path / "a.safetensors", more))
    more = {**tensors, "diffusion_model.blocks.1.modulation": torch.ones(2)}
    with pytest.raises(UnsupportedAdapter, match=r"not part of a LoRA: diffusion_model\.blocks"):
        read(write(tmp_path / "b.safetensors", more))
    lacking = {k: v for k, v in tensors.items() if "lora_B" not in k}
    with pytest.raises(MalformedAdapter, match="no pair of factors"):
        read(write(tmp_path / "c.safetensors", lacking))


def test_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    module = "diffusion_model.blocks.0.self_attn.q"
    for key, why in {"oft_blocks": "OFT", "dora_scale": "DoRA", "diff_b": "whole weight"}.items():
        tensors = {**tensors_of([module]), f"{module}.{key}": torch.ones(8)}
        with pytest.raises(UnsupportedAdapter, match=why):
            read(write(tmp_path / f"{key}.safetensors", tensors))


def test_settings_of_one_model_in_the_header_count(tmp_path: Path) -> None:
    """`save_lora_adapter` of a diffusers model: bare names, PEFT's configuration as it is."""
    module = "transformer_blocks.0.attn.to_q"
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": "org/m"}
    file = write(
        tmp_path / "a.safetensors",
        tensors_of([module]),
        lora_adapter_metadata=json.dumps(settings),
    )
    record = read(file)
    assert (record.sites[0].scaling, record.base_model) == (3.0, "org/m")
    alphas = tensors_of([module], alpha=1.0)
    write(file, alphas, lora_adapter_metadata=json.dumps(settings))
    with pytest.raises(MalformedAdapter, match=r"is 1, and .* as an alpha of 6 does"):
        updates(file, read(file))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_widened_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    module = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = tensors_of([module], ends="down_up", dtype=dtype)
    tensors[f"{module}.alpha"] = torch.tensor(0.5).to(dtype)
    file = write(tmp_path / "a.safetensors", tensors)
    got = updates(file, read(file))
    assert relative_error(got, updates_of(tensors)) == 0


def test_b_of_a_convolution_may_lack_its_kernel(tmp_path: Path) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = tensors_of([module], ends="down_up")
    down, up = (f"{module}{end}" for end in ENDS["down_up"])
    deep = {down: tensors[down][:, :, None, None], up: tensors[up][:, :, None, None]}
    for changed in ([down], [down, up]):
        file = write(tmp_path / "a.safetensors", {**tensors, **{k: deep[k] for k in changed}})
        [site] = read(file).sites
        assert (site.kind, site.a_tail, site.b_dims) == ("conv", (8, 1, 1), 4)
    [site] = read(write(tmp_path / "b.safetensors", tensors)).sites
    assert (site.kind, site.a_tail, site.b_dims) == ("linear", (8,), 2)


def test_a_suffix_is_whole() -> None:
    assert parse_suffix("x.lora_A.weights") is None
    assert parse_suffix("lora_A.weight") is None
    assert parse_suffix("x.down.weight") is None
    found = parse_suffix("blocks.0.q.lora_B.style.weight")
    assert found is not None
    assert (found.stem, found.half, found.adapter) == ("blocks.0.q", "B", "style")
