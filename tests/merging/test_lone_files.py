"""Merges of ComfyUI's files and their kin: under the names they came in, as their readers load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_pipeline as loaders

import lego_ray
from lego_ray.errors import LayoutMismatch
from tests.lone_zoo import load, metadata_of, tensors_of, through, total, updates_of, write
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

WAN = [
    *(f"blocks.0.{attn}_attn.{part}" for attn in ("self", "cross") for part in "qkvo"),
    *("blocks.0.ffn.0", "blocks.0.ffn.2"),
]
QWEN = ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.img_mlp.net.0.proj"]
LTX = ["transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.net.2"]
ZIMAGE = ["layers.0.attention.to_q", "layers.0.feed_forward.w1"]
FLUX2 = {
    "double_blocks.0.img_attn.qkv": (8, 24),
    "double_blocks.0.txt_mlp.0": (8, 48),
    "single_blocks.0.linear1": (8, 72),
}
XLABS = {
    "double_blocks.0.processor.qkv_lora1": (8, 24),
    "double_blocks.0.processor.proj_lora2": (8, 8),
    "single_blocks.0.processor.qkv_lora": (8, 24),
}


def merge(sources: Any, output: Path, **options: Any) -> dict[str, Any]:
    given = {"rank": 16, "method": "concat", "runner": "inline", "base_model": "base", **options}
    return lego_ray.merge(sources, output=output, **given)


@pytest.mark.parametrize(
    ("modules", "prefix", "ends", "loader"),
    [
        (WAN, "diffusion_model.", "a_b", loaders.WanLoraLoaderMixin),
        (WAN, "diffusion_model.", "down_up", loaders.WanLoraLoaderMixin),
        (QWEN, "diffusion_model.", "a_b", loaders.QwenImageLoraLoaderMixin),
        (QWEN, "", "default", loaders.QwenImageLoraLoaderMixin),
        (QWEN, "transformer.", "default", None),
        (QWEN, "transformer.", "a_b", loaders.QwenImageLoraLoaderMixin),
        (QWEN, "", "a_b", None),
        (LTX, "diffusion_model.", "a_b", loaders.LTXVideoLoraLoaderMixin),
        (ZIMAGE, "diffusion_model.", "a_b", loaders.ZImageLoraLoaderMixin),
        (FLUX2, "diffusion_model.", "a_b", loaders.Flux2LoraLoaderMixin),
        (XLABS, "", "xlabs", loaders.FluxLoraLoaderMixin),
        (WAN, "pipe.dit.", "a_b", None),
        (QWEN, "base_model.model.", "a_b", None),
    ],
)
@pytest.mark.parametrize("compact", [False, True], ids=["padded", "compact"])
def test_a_merge_loads_as_the_sum_of_its_sources(
    modules: Any, prefix: str, ends: str, loader: Any, compact: bool, tmp_path: Path
) -> None:
    shapes = modules if isinstance(modules, dict) else dict.fromkeys(modules, (8, 8))
    named = {f"{prefix}{module}": shape for module, shape in shapes.items()}
    parts = [tensors_of(named, ends=ends, rank=rank, seed=rank) for rank in (2, 3)]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m", compact=compact)
    merged = load(tmp_path / "m")
    wanted = total(*map(updates_of, parts))
    assert relative_error(updates_of(merged), wanted) < F32_ROUNDING
    if loader is not None:
        got, wanted = through(loader, merged), total(*(through(loader, part) for part in parts))
        assert len(wanted) >= len(shapes)
        assert relative_error(got, wanted) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_alphas_are_multiplied_in(tmp_path: Path) -> None:
    parts = [tensors_of(["diffusion_model.blocks.0.ffn.0"], alpha=a, seed=int(a)) for a in (1, 8)]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part, ss_base_model_version="wan2.1")
    record = merge(tmp_path / "zoo", tmp_path / "m", base_model="", rank=4)
    merged = load(tmp_path / "m")
    assert not [key for key in merged if "alpha" in key]
    assert relative_error(updates_of(merged), total(*map(updates_of, parts))) < F32_ROUNDING
    assert metadata_of(tmp_path / "m")["ss_base_model_version"] == "wan2.1"
    assert (tmp_path / "m/m.safetensors").is_file()
    assert record["warnings"] == []


@pytest.mark.parametrize("ends", ["down_up", "a_b"])
def test_names_alike_merge_whatever_their_suffix(ends: str, tmp_path: Path) -> None:
    """Kijai's files and ai-toolkit's have the same names and other suffixes; musubi's are flat."""
    named = [f"diffusion_model.{module}" for module in WAN]
    flat = [f"lora_unet_{module.replace('.', '_')}" for module in WAN]
    parts = [
        tensors_of(named, seed=1),
        tensors_of(named, ends=ends, alpha=1.0, seed=2),
        tensors_of(flat, ends="down_up", alpha=1.0, seed=3),
    ]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m")
    got = through(loaders.WanLoraLoaderMixin, load(tmp_path / "m"))
    wanted = total(*(through(loaders.WanLoraLoaderMixin, part) for part in parts))
    assert len(wanted) == len(WAN)
    assert relative_error(got, wanted) < F32_ROUNDING
    assert all(key.startswith("diffusion_model.") for key in load(tmp_path / "m"))
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_kohyas_and_diffusers_files_of_one_model_merge_in_one_style(tmp_path: Path) -> None:
    """More adapters name the UNet with dots, but a file must not have both styles."""
    unet = "down_blocks.0.attentions.0.proj_in"
    text = "text_model.encoder.layers.0.mlp.fc1"
    flat = [f"lora_unet_{unet.replace('.', '_')}", f"lora_te_{text.replace('.', '_')}"]
    parts = [
        tensors_of([f"unet.{unet}"], seed=1),
        tensors_of([f"unet.{unet}"], seed=2),
        tensors_of(flat, ends="down_up", alpha=2.0, seed=3),
    ]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m")
    loader = loaders.StableDiffusionLoraLoaderMixin
    got = through(loader, load(tmp_path / "m"))
    wanted = total(*(through(loader, part) for part in parts))
    assert len(wanted) == 2
    assert relative_error(got, wanted) < F32_ROUNDING


def test_full_weights_beside_factors_are_dropped_on_request(tmp_path: Path) -> None:
    module = "diffusion_model.blocks.0.self_attn.q"
    parts = [tensors_of([module], ends="down_up", alpha=1.0, seed=seed) for seed in (1, 2)]
    for number, part in enumerate(parts):
        more = {
            f"{module}.diff_b": torch.ones(8),
            f"{module.replace('.q', '.norm_q')}.diff": torch.zeros(8),
        }
        write(tmp_path / f"zoo/{number}.safetensors", {**part, **more})
    record = merge(tmp_path / "zoo", tmp_path / "m", full_weights="drop")
    assert any("were dropped" in each["note"] for each in record["notes"])
    got = updates_of(load(tmp_path / "m"))
    assert relative_error(got, total(*map(updates_of, parts))) < F32_ROUNDING


def test_1x1_convolutions_of_two_shapes_are_one_module(tmp_path: Path) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_proj_in"
    parts = [tensors_of([module], ends="down_up", alpha=1.0, seed=seed) for seed in (1, 2)]
    deep = {k: t if t.ndim == 0 else t[:, :, None, None] for k, t in parts[0].items()}
    write(tmp_path / "zoo/a.safetensors", deep)
    write(tmp_path / "zoo/b.safetensors", parts[1])
    merge(tmp_path / "zoo", tmp_path / "m")
    merged = load(tmp_path / "m")
    assert merged[f"{module}.lora_down.weight"].shape == (16, 8, 1, 1)
    assert relative_error(updates_of(merged), total(*map(updates_of, parts))) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_float8_files_merge_into_bfloat16(tmp_path: Path) -> None:
    module = "lora_unet_double_blocks_0_img_attn_proj"
    parts = [
        tensors_of([module], ends="down_up", alpha=1.0, seed=s, dtype=torch.float8_e4m3fn)
        for s in (1, 2)
    ]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m", dtype="F32")
    got = updates_of(load(tmp_path / "m"))
    assert relative_error(got, total(*map(updates_of, parts))) < F32_ROUNDING
    merge(tmp_path / "zoo", tmp_path / "n")
    assert load(tmp_path / "n")[f"{module}.lora_up.weight"].dtype == torch.bfloat16


def test_an_update_takes_the_same_names_with_another_suffix(tmp_path: Path) -> None:
    named = [f"diffusion_model.{module}" for module in WAN]
    for seed, ends in enumerate(("down_up", "down_up", "a_b")):
        tensors = tensors_of(named, ends=ends, alpha=1.0, seed=seed)
        write(tmp_path / f"{'zoo' if seed < 2 else 'new'}/{seed}.safetensors", tensors)
    merge(tmp_path / "zoo", tmp_path / "m", updatable=True, method="lego", rank=4, n_init=1)
    record = lego_ray.update(tmp_path / "m", add=[tmp_path / "new"], runner="inline")
    assert record["skipped_sites"] == []


def test_language_models_do_not_mix_with_image_models(tmp_path: Path) -> None:
    from tests.zoo import write_adapter

    write_adapter(tmp_path / "zoo/peft")
    write(tmp_path / "zoo/b.safetensors", tensors_of(["diffusion_model.blocks.0.ffn.0"]))
    with pytest.raises(LayoutMismatch, match="comfyui's, such as"):
        merge(tmp_path / "zoo", tmp_path / "m")
