"""Zoos whose files call a text encoder by its number and by its model: the sum, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest

import lego_ray
from lego_ray.errors import LayoutMismatch
from tests.lone_zoo import load, tensors_of, updates_of, write
from tests.merging.test_lone_files import merge
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

LAYER = "layers.0.self_attn.q_proj"
CLIP = f"text_model.encoder.{LAYER}"
BLOCK = "double_blocks.0.img_attn.proj"
HIDREAM = "double_stream_blocks.0.block.attn1.to_q"


def flat(path: str) -> str:
    return path.replace(".", "_")


@pytest.mark.parametrize(
    ("first", "second", "base_model", "written"),
    [
        (
            [f"lora_unet_{flat(BLOCK)}", f"lora_te1_model_{flat(LAYER)}", f"lora_te2_{flat(CLIP)}"],
            [
                f"diffusion_model.{BLOCK}",
                f"text_encoders.llama.transformer.model.{LAYER}",
                f"text_encoders.clip_l.transformer.{CLIP}",
            ],
            "hunyuanvideo-community/HunyuanVideo",
            0,
        ),
        (
            ["lora_unet_blocks_0_self_attn_q_proj", f"lora_te_{flat(LAYER)}"],
            [
                "diffusion_model.blocks.0.self_attn.q_proj",
                f"text_encoders.qwen3_06b.transformer.model.{LAYER}",
            ],
            "circlestone-labs/Anima",
            0,
        ),
        (
            [f"transformer.{HIDREAM}", f"text_encoder_4.model.{LAYER}"],
            [f"transformer.{HIDREAM}", f"text_encoder_4.model.{LAYER}"],
            "HiDream-ai/HiDream-I1-Full",
            0,
        ),
    ],
)
def test_the_sum_is_of_one_encoder(
    first: list[str], second: list[str], base_model: str, written: int, tmp_path: Path
) -> None:
    files = []
    for seed, modules in enumerate((first, second)):
        ends = "down_up" if modules[0].startswith("lora_") else "a_b"
        files.append(tensors_of(modules, ends=ends, seed=seed))
        write(tmp_path / "zoo" / f"{seed}.safetensors", files[-1])
    merge(tmp_path / "zoo", tmp_path / "m", base_model=base_model)
    got = updates_of(load(tmp_path / "m"))
    one, two = (updates_of(tensors) for tensors in files)
    wanted = {
        (first, second)[written][n]: one[mine] + two[theirs]
        for n, (mine, theirs) in enumerate(zip(first, second, strict=True))
    }
    assert sorted(got) == sorted(wanted)
    assert relative_error(got, wanted) < F32_ROUNDING


@pytest.mark.parametrize(
    ("text", "able"),
    [
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
            "diffusers or --layout comfyui",
        ),
        ("text_encoder_3.encoder.block.0.layer.0.SelfAttention.q", "kohya or --layout comfyui"),
    ],
)
def test_the_layout_of_the_denoiser_alone_says_what_to_do_with_text_encoders(
    text: str, able: str, tmp_path: Path
) -> None:
    denoiser = "transformer.transformer_blocks.0.attn.add_q_proj"
    write(tmp_path / "zoo/a.safetensors", tensors_of([denoiser, text]))
    base = "stabilityai/stable-diffusion-3.5-large"
    with pytest.raises(LayoutMismatch, match="is of a text encoder") as caught:
        lego_ray.plan(tmp_path / "zoo", rank=2, layout="peft", base_model=base)
    for said in (
        f"--layout {able}, which holds text encoders too",
        "--exclude",
        "Leave out --layout",
    ):
        assert said in caught.value.hint, caught.value.hint
