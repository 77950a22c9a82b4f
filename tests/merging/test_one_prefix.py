"""Adapters of one model that begin its modules in several ways and share none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers.loaders import lora_pipeline as loaders

from lego_ray.errors import UnreadableOutput
from tests.lone_zoo import load, tensors_of, through, updates_of, write
from tests.merging.test_lone_files import merge
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

Q, MLP = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.img_mlp.net.2"
LTX = "transformer_blocks.0.attn1.to_q"
CONNECTOR = f"connectors.video_connector.{LTX}"


@pytest.mark.parametrize(
    ("first", "second", "base_model", "loader"),
    [
        (
            [f"diffusion_model.{Q}"],
            [f"transformer.{MLP}"],
            "Qwen/Qwen-Image",
            loaders.QwenImageLoraLoaderMixin,
        ),
        (
            [f"transformer.{LTX}", CONNECTOR],
            [f"diffusion_model.{LTX}", f"diffusion_model.{LTX.replace('0', '1')}"],
            "Lightricks/LTX-2",
            loaders.LTX2LoraLoaderMixin,
        ),
    ],
)
def test_diffusers_reads_the_sum(
    first: list[str], second: list[str], base_model: str, loader: Any, tmp_path: Path
) -> None:
    files = [tensors_of(modules, seed=n) for n, modules in enumerate((first, second))]
    for name, tensors in zip("ab", files, strict=True):
        write(tmp_path / f"zoo/{name}.safetensors", tensors)
    merge(tmp_path / "zoo", tmp_path / "m", base_model=base_model)
    wanted: dict[str, Any] = {}
    for tensors in files:
        for name, update in through(loader, tensors).items():
            wanted[name] = wanted.get(name, 0) + update
    got = through(loader, load(tmp_path / "m"))
    assert sorted(got) == sorted(wanted)
    assert relative_error(got, wanted) < F32_ROUNDING


def test_underscores_and_dots_become_one_style(tmp_path: Path) -> None:
    flat = f"lora_unet_{Q.replace('.', '_')}"
    write(tmp_path / "zoo/a.safetensors", tensors_of([flat], ends="down_up", alpha=2))
    write(tmp_path / "zoo/b.safetensors", tensors_of([f"transformer.{MLP}"], seed=1))
    merge(tmp_path / "zoo", tmp_path / "m", base_model="Qwen/Qwen-Image")
    written = updates_of(load(tmp_path / "m"))
    assert sorted(written) == sorted([flat, f"lora_unet_{MLP.replace('.', '_')}"])


def test_a_file_that_has_two_ways_itself_is_refused(tmp_path: Path) -> None:
    mixed = tensors_of([f"diffusion_model.{Q}", f"transformer.{MLP}"])
    write(tmp_path / "zoo/a.safetensors", mixed)
    lost = set(through(loaders.QwenImageLoraLoaderMixin, mixed))
    assert f"transformer.{MLP}" not in lost
    with pytest.raises(UnreadableOutput, match="begin in two ways"):
        merge(tmp_path / "zoo", tmp_path / "m", base_model="Qwen/Qwen-Image")
