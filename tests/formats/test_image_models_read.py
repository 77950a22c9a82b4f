"""What diffusers leaves of a model's files by their names: said, and shown by its own converters."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import lora_pipeline as loaders
from torch import Tensor

import lego_ray
from tests.lone_zoo import tensors_of, write

logging.getLogger("diffusers").setLevel(logging.ERROR)
H = 8
Z = 3840  # Z-Image's width
UNTYPED: Any = diffusers

FLUX = {"double_blocks.0.img_attn.qkv": (H, 3 * H), "double_blocks.0.img_mlp.0": (H, 4 * H)}
FLUX_2 = {"double_blocks.0.img_attn.qkv": (H, 3 * H), "double_blocks.0.img_mlp.0": (H, 6 * H)}
FLUX_QKV = {"double_blocks.0.img_attn.qkv": (H, 3 * H)}
CHROMA = {"single_blocks.0.modulation.lin": (H, 3 * H), "single_blocks.0.linear1": (H, 7 * H)}
SD3 = {"joint_blocks.0.x_block.attn.qkv": (H, 3 * H), "joint_blocks.0.x_block.mlp.fc1": (H, H)}
Z_IMAGE = {"layers.0.attention.qkv": (Z, 3 * Z), "layers.0.feed_forward.w1": (Z, H)}
Z_SPLIT = {"layers.0.attention.to_q": (Z, Z), "layers.0.feed_forward.w1": (Z, H)}
Z_OUTSIDE = {**Z_IMAGE, "x_embedder": (64, Z), "final_layer.linear": (Z, 64)}
W = 2304  # Lumina 2's
LUMINA = {
    "layers.0.attention.qkv": (W, 3840),
    "layers.0.attention.out": (W, W),
    **{f"layers.0.feed_forward.w{n}": (W, W) for n in (1, 2, 3)},
    "layers.0.adaLN_modulation.1": (W, W),
}
LUMINA_PART = {name: LUMINA[name] for name in list(LUMINA)[:2]}
LUMINA_OUTSIDE = {**LUMINA, "final_layer.linear": (W, H)}
ONETRAINER = {"single_transformer_blocks.0.attn.to_q": (H, H)}
ONETRAINER_MLP = {**ONETRAINER, "single_transformer_blocks.0.proj_mlp": (H, 4 * H)}
ONETRAINER_OTHER = {"transformer_blocks.0.attn.to_q": (H, H)}

FLUX_LOADER, SD3_LOADER = loaders.FluxLoraLoaderMixin, loaders.SD3LoraLoaderMixin


def z_image() -> set[str]:
    with torch.device("meta"):
        model = UNTYPED.ZImageTransformer2DModel(dim=Z, n_layers=1, n_refiner_layers=1)
    return {name for name, _ in model.named_modules()}


def dotted(modules: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    return tensors_of({f"diffusion_model.{name}": size for name, size in modules.items()})


def kohya(modules: Mapping[str, tuple[int, int]], prefix: str = "lora_unet_") -> dict[str, Tensor]:
    flat = {prefix + name.replace(".", "_"): size for name, size in modules.items()}
    return tensors_of(flat, ends="down_up", alpha=2.0)


def onetrainer(modules: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    return kohya(modules, "lora_transformer_")


CASES: dict[str, tuple[Any, dict[str, Tensor], str]] = {
    "Flux.1, dotted": (
        FLUX_LOADER,
        dotted(FLUX),
        r"nothing of Flux\.1, Chroma and .*qkv;",
    ),
    "Chroma, dotted": (FLUX_LOADER, dotted(CHROMA), "nothing of Flux"),
    "Flux of one or two, dotted": (FLUX_LOADER, dotted(FLUX_QKV), r"\(of Flux\.2 it does\)"),
    "Flux.1, kohya": (FLUX_LOADER, kohya(FLUX), ""),
    "Flux.2, dotted": (loaders.Flux2LoraLoaderMixin, dotted(FLUX_2), ""),
    "SD3, dotted": (SD3_LOADER, dotted(SD3), "nothing of Stable Diffusion 3"),
    "SD3, kohya": (SD3_LOADER, kohya(SD3), "nothing of Stable Diffusion 3"),
    "Z-Image, dotted": (loaders.ZImageLoraLoaderMixin, dotted(Z_IMAGE), "drops 1 of the 2"),
    "Z-Image outside, dotted": (
        loaders.ZImageLoraLoaderMixin,
        dotted(Z_OUTSIDE),
        "drops 3 of the 4",
    ),
    "Z-Image split, dotted": (loaders.ZImageLoraLoaderMixin, dotted(Z_SPLIT), ""),
    "Z-Image, kohya": (loaders.ZImageLoraLoaderMixin, kohya(Z_IMAGE), ""),
    "Z-Image outside, kohya": (loaders.ZImageLoraLoaderMixin, kohya(Z_OUTSIDE), "drops 2 of the 4"),
    "Lumina 2, dotted": (loaders.Lumina2LoraLoaderMixin, dotted(LUMINA), ""),
    "Lumina 2 in part": (loaders.Lumina2LoraLoaderMixin, dotted(LUMINA_PART), "with every module"),
    "Lumina 2 outside": (loaders.Lumina2LoraLoaderMixin, dotted(LUMINA_OUTSIDE), "none outside"),
    "Lumina 2, kohya": (loaders.Lumina2LoraLoaderMixin, kohya(LUMINA), "nothing of Lumina 2"),
    "OneTrainer's attention": (FLUX_LOADER, onetrainer(ONETRAINER), ""),
    "OneTrainer's MLP": (FLUX_LOADER, onetrainer(ONETRAINER_MLP), "Flux.1's attention.*proj_mlp"),
    "OneTrainer's other": (
        loaders.QwenImageLoraLoaderMixin,
        onetrainer(ONETRAINER_OTHER),
        "Flux.1's attention",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_diffusers_leaves_is_said_and_nothing_else(case: str, tmp_path: Path) -> None:
    loader, tensors, says = CASES[case]
    file = write(tmp_path / "zoo" / "a.safetensors", tensors)
    record = lego_ray.merge(file, rank=2, method="concat", output=tmp_path / "m", runner="inline")
    found = [each for each in record.warnings if "diffusers" in each]
    if says:
        [text] = found
        assert re.search(says, text)
    else:
        assert not found
    assert lost_by(loader, tensors) == bool(says)


def lost_by(loader: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a loader raises at a file, or gives its transformer fewer modules than it has."""
    try:
        state = loader.lora_state_dict(dict(tensors))
    except (KeyError, ValueError):
        return True
    ends = ".lora_A.weight"
    read = {key.removesuffix(ends) for key in state if key.endswith(ends)}
    read = {name.removeprefix("transformer.") for name in read if name.startswith("transformer.")}
    # Names that no model has: a whole block's, or one in another tool's spelling.
    read = {name for name in read if not re.search(r"blocks\.\d+$|^lora_", name)}
    if loader is loaders.ZImageLoraLoaderMixin:
        read &= z_image()
    # Fused modules become three, others stay one.
    wanted = {key.rpartition(".lora_")[0] for key in tensors if ".lora_" in key}
    fused = sum("qkv" in name for name in wanted)
    n_read = len(read) - 2 * fused if any("to_k" in name for name in read) else len(read)
    if any("proj_mlp" in name for name in read):  # `linear1` of Flux.1, in four
        n_read -= 3
    return n_read < len(wanted)
