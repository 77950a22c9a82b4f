"""MiniMax-H3, whose rows of a fused projection DiffSynth writes by heads, against diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers.loaders import lora_conversion_utils

from lego_ray.errors import LayoutMismatch
from tests.image_zoo import Updates
from tests.lone_zoo import load, tensors_of, updates_of, write
from tests.merging.test_lone_files import merge
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

QKV = "blocks.0.attn.qkv_proj"
SHAPE = (16, 2 * 3 * 128)
TO_DIFFUSERS: Any = lora_conversion_utils._convert_non_diffusers_minimax_h3_lora_to_diffusers


def read(tensors: Any) -> Updates:
    return updates_of(TO_DIFFUSERS({key: tensor.clone() for key, tensor in tensors.items()}))


def test_two_orders_of_rows_do_not_merge_and_one_does(tmp_path: Path) -> None:
    ours = tensors_of({QKV: SHAPE}, ends="default", seed=1)
    again = tensors_of({QKV: SHAPE}, ends="default", seed=2)
    theirs = tensors_of({f"diffusion_model.{QKV}": SHAPE}, seed=1)
    write(tmp_path / "mix/a.safetensors", ours)
    write(tmp_path / "mix/b.safetensors", theirs)
    write(tmp_path / "one/a.safetensors", ours)
    write(tmp_path / "one/b.safetensors", again)
    with pytest.raises(LayoutMismatch, match="by heads"):
        merge(tmp_path / "mix", tmp_path / "m")
    with pytest.raises(LayoutMismatch, match="by heads"):
        merge(tmp_path / "one", tmp_path / "m", layout="comfyui")
    merge(tmp_path / "one", tmp_path / "m")
    first, second = read(ours), read(again)
    wanted = {name: first[name] + second[name] for name in first}
    assert relative_error(read(load(tmp_path / "m")), wanted) < F32_ROUNDING
