"""Adapters with different names for the modules of one model, against diffusers' own converters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_pipeline as loaders
from diffusers.loaders import single_file_utils
from diffusers.utils import state_dict_utils
from torch import Tensor

import lego_ray
from lego_ray.errors import LayoutMismatch, NoAdaptersFound
from lego_ray.planning.dialects import as_known
from tests.image_zoo import Updates
from tests.lone_zoo import load, metadata_of, tensors_of, through, total, updates_of, write
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.planning.records import adapter, factors
from tests.zoo import relative_error

H = 8  # width of the tiny models
# Without types, as they are in diffusers.
TO_PEFT: Any = state_dict_utils.convert_unet_state_dict_to_peft
OF_SD3: Any = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers


def merge(sources: Any, output: Path, **options: Any) -> dict[str, Any]:
    given = {"rank": 24, "method": "concat", "runner": "inline", "base_model": "base", **options}
    return lego_ray.merge(sources, output=output, **given)


def names(output: Path) -> set[str]:
    return {key.split(".lora_")[0].removesuffix(".alpha") for key in load(output)}


def flat(prefix: str, modules: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {f"{prefix}{name.replace('.', '_')}": shape for name, shape in modules.items()}


def plain(updates: Updates) -> Updates:
    """Without the component, which diffusers leaves out of modules outside of Flux's blocks."""
    return {name.removeprefix("transformer."): update for name, update in updates.items()}


def dotted(prefix: str, modules: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {f"{prefix}{name}": shape for name, shape in modules.items()}


FLUX = {
    "double_blocks.0.img_attn.qkv": (H, 3 * H),
    "double_blocks.0.txt_attn.qkv": (H, 3 * H),
    "double_blocks.0.img_attn.proj": (H, H),
    "double_blocks.0.txt_attn.proj": (H, H),
    "double_blocks.0.img_mlp.0": (H, 4 * H),
    "double_blocks.0.txt_mlp.2": (4 * H, H),
    "double_blocks.0.img_mod.lin": (H, 6 * H),
    "single_blocks.0.linear2": (5 * H, H),
    "single_blocks.0.modulation.lin": (H, 3 * H),
    "img_in": (H, H),
    "vector_in.in_layer": (H, H),
    "final_layer.linear": (H, H),
}
FLUX_THERE = {
    "transformer_blocks.0.attn.to_q": (H, H),
    "transformer_blocks.0.attn.to_v": (H, H),
    "transformer_blocks.0.attn.add_k_proj": (H, H),
    "transformer_blocks.0.attn.to_out.0": (H, H),
    "transformer_blocks.0.ff.net.0.proj": (H, 4 * H),
    "transformer_blocks.7.attn.to_q": (H, H),
    "single_transformer_blocks.0.proj_out": (5 * H, H),
}
FLUX2 = {
    "double_blocks.0.img_attn.qkv": (H, 3 * H),
    "double_blocks.0.txt_attn.proj": (H, H),
    "double_blocks.0.img_mlp.0": (H, 6 * H),
    "single_blocks.0.linear1": (H, 9 * H),
    "single_blocks.0.linear2": (4 * H, H),
    "txt_in": (H, H),
}
FLUX2_THERE = {
    "transformer_blocks.0.attn.to_k": (H, H),
    "transformer_blocks.0.ff.linear_in": (H, 6 * H),
    "single_transformer_blocks.0.attn.to_qkv_mlp_proj": (H, 9 * H),
    "single_transformer_blocks.0.attn.to_out": (4 * H, H),
}
WAN = {
    **{f"blocks.0.{a}_attn.{p}": (H, H) for a in ("self", "cross") for p in "qkvo"},
    "blocks.0.ffn.0": (H, 4 * H),
    "blocks.0.ffn.2": (4 * H, H),
    "time_embedding.0": (H, H),
    "time_projection.1": (H, 6 * H),
    "head.head": (H, H),
}
WAN_THERE = {
    "blocks.0.attn1.to_q": (H, H),
    "blocks.0.attn2.to_out.0": (H, H),
    "blocks.0.ffn.net.0.proj": (H, 4 * H),
    "condition_embedder.time_embedder.linear_1": (H, H),
    "condition_embedder.time_proj": (H, 6 * H),
    "proj_out": (H, H),
}
Z_IMAGE = {
    "layers.0.attention.qkv": (H, 3 * H),
    "layers.0.attention.out": (H, H),
    "layers.0.feed_forward.w1": (H, 4 * H),
}
Z_IMAGE_THERE = {
    "layers.0.attention.to_q": (H, H),
    "layers.0.attention.to_v": (H, H),
    "layers.0.attention.to_out.0": (H, H),
    "layers.0.feed_forward.w2": (4 * H, H),
}
ANIMA = {
    "blocks.0.self_attn.q_proj": (H, H),
    "blocks.0.cross_attn.output_proj": (H, H),
    "blocks.0.mlp.layer1": (H, 4 * H),
}
ANIMA_THERE = {
    "transformer_blocks.0.attn1.to_q": (H, H),
    "transformer_blocks.0.attn2.to_out.0": (H, H),
    "transformer_blocks.0.ff.net.2": (4 * H, H),
}
ANIMA_TEXT = {
    "llm_adapter.blocks.0.self_attn.q_proj": (H, H),
    "llm_adapter.blocks.0.mlp.2": (4 * H, H),
    "llm_adapter.out_proj": (H, H),
}
ANIMA_TEXT_THERE = {
    "text_conditioner.blocks.0.self_attn.q_proj": (H, H),
    "text_conditioner.blocks.0.cross_attn.o_proj": (H, H),
    "text_conditioner.out_proj": (H, H),
}
WIDE = 4608  # of Ideogram 4; modules of Z-Image with these names have other widths
IDEOGRAM = {
    "layers.0.attention.qkv": (WIDE, 3 * H),
    "layers.0.attention.o": (WIDE, H),
    "layers.0.feed_forward.w1": (WIDE, H),
    "layers.0.adaln_modulation": (512, 4 * H),
}
IDEOGRAM_THERE = {
    "layers.0.attention.to_q": (WIDE, H),
    "layers.0.attention.to_v": (WIDE, H),
    "layers.0.attention.to_out.0": (WIDE, H),
    "layers.0.feed_forward.w3": (WIDE, H),
}
HUNYUAN = {
    "double_blocks.0.img_attn_qkv": (H, 3 * H),
    "double_blocks.0.img_attn_proj": (H, H),
    "double_blocks.0.img_mlp.fc1": (H, 4 * H),
    "double_blocks.0.txt_mod.linear": (H, 6 * H),
    "single_blocks.0.linear2": (5 * H, H),
}

PAIRS: dict[str, tuple[Any, dict[str, Tensor], dict[str, Tensor], dict[str, Any]]] = {
    "Flux.1, kohya and diffusers": (
        loaders.FluxLoraLoaderMixin,
        tensors_of(flat("lora_unet_", FLUX), ends="down_up", seed=1),
        tensors_of(dotted("transformer.", FLUX_THERE), rank=3, seed=2),
        {"return_alphas": True},
    ),
    "Flux.1, kohya and OneTrainer": (
        loaders.FluxLoraLoaderMixin,
        tensors_of(flat("lora_unet_", FLUX), ends="down_up", seed=1),
        tensors_of(
            # diffusers' converter of OneTrainer's files knows no other modules of blocks
            flat("lora_transformer_", {k: v for k, v in FLUX_THERE.items() if ".attn." in k}),
            ends="down_up",
            alpha=1.0,
            rank=3,
            seed=2,
        ),
        {"return_alphas": True},
    ),
    "Flux.1, XLabs and diffusers": (
        loaders.FluxLoraLoaderMixin,
        tensors_of(
            {
                "double_blocks.0.processor.qkv_lora1": (H, 3 * H),
                "double_blocks.0.processor.qkv_lora2": (H, 3 * H),
                "double_blocks.0.processor.proj_lora1": (H, H),
                "double_blocks.0.processor.proj_lora2": (H, H),
                "single_blocks.0.processor.qkv_lora": (H, 3 * H),
                "single_blocks.0.processor.proj_lora": (5 * H, H),
            },
            ends="xlabs",
            seed=1,
        ),
        tensors_of(dotted("transformer.", FLUX_THERE), rank=3, seed=2),
        {"return_alphas": True},
    ),
    "LTX-2": (
        loaders.LTX2LoraLoaderMixin,
        tensors_of(
            dotted(
                "diffusion_model.",
                {
                    "transformer_blocks.0.audio_attn1.to_q": (H, H),
                    "patchify_proj": (H, H),
                    "adaln_single.emb.timestep_embedder.linear_1": (H, H),
                    "av_ca_a2v_gate_adaln_single.linear": (H, H),
                },
            ),
            seed=1,
        ),
        tensors_of(
            dotted(
                "transformer.",
                {
                    "transformer_blocks.0.audio_attn1.to_q": (H, H),
                    "proj_in": (H, H),
                    "time_embed.emb.timestep_embedder.linear_1": (H, H),
                },
            ),
            rank=3,
            seed=2,
        ),
        {},
    ),
    "Flux.1, XLabs and kohya": (
        loaders.FluxLoraLoaderMixin,
        tensors_of(flat("lora_unet_", FLUX), ends="down_up", seed=1),
        tensors_of(
            {
                "double_blocks.0.processor.qkv_lora1": (H, 3 * H),
                "double_blocks.0.processor.proj_lora2": (H, H),
            },
            ends="xlabs",
            seed=2,
        ),
        {"return_alphas": True},
    ),
    "HunyuanVideo": (
        loaders.HunyuanVideoLoraLoaderMixin,
        tensors_of(dotted("transformer.", HUNYUAN), seed=1),
        tensors_of(dotted("transformer.", FLUX_THERE), rank=3, seed=2),
        {},
    ),
    "Flux.2": (
        loaders.Flux2LoraLoaderMixin,
        tensors_of(dotted("diffusion_model.", FLUX2), seed=1),
        tensors_of(dotted("transformer.", FLUX2_THERE), rank=3, seed=2),
        {},
    ),
    "Wan": (
        loaders.WanLoraLoaderMixin,
        tensors_of(dotted("diffusion_model.", WAN), seed=1),
        tensors_of(dotted("transformer.", WAN_THERE), rank=3, seed=2),
        {},
    ),
    "Z-Image": (
        loaders.ZImageLoraLoaderMixin,
        tensors_of(flat("lora_unet_", Z_IMAGE), ends="down_up", alpha=1.0, seed=1),
        tensors_of(dotted("transformer.", Z_IMAGE_THERE), rank=3, seed=2),
        {},
    ),
    "Z-Image, both flat": (
        loaders.ZImageLoraLoaderMixin,
        tensors_of(flat("lora_unet_", Z_IMAGE), ends="down_up", alpha=1.0, seed=1),
        tensors_of(flat("lora_unet_", Z_IMAGE_THERE), ends="down_up", alpha=1.0, rank=3, seed=2),
        {},
    ),
    "Anima": (
        loaders.AnimaLoraLoaderMixin,
        tensors_of(dotted("diffusion_model.", ANIMA), seed=1),
        tensors_of(dotted("transformer.", ANIMA_THERE), rank=3, seed=2),
        {},
    ),
    "Anima with its text conditioner": (
        loaders.AnimaLoraLoaderMixin,
        tensors_of(dotted("diffusion_model.", {**ANIMA, **ANIMA_TEXT}), seed=1),
        tensors_of({**dotted("transformer.", ANIMA_THERE), **ANIMA_TEXT_THERE}, rank=3, seed=2),
        {},
    ),
    "Ideogram 4": (
        loaders.Ideogram4LoraLoaderMixin,
        tensors_of(dotted("diffusion_model.", IDEOGRAM), seed=1),
        tensors_of(dotted("transformer.", IDEOGRAM_THERE), rank=3, seed=2),
        {},
    ),
}


@pytest.mark.parametrize("more", [0, 1], ids=["even", "diffusers more"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_merge_is_the_sum_of_what_diffusers_makes_of_its_sources(
    pair: str, more: int, tmp_path: Path
) -> None:
    loader, one, two, options = PAIRS[pair]
    parts = [one, two, *[{k: 2 * t if "lora_" in k else t for k, t in two.items()}] * more]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    record = merge(tmp_path / "zoo", tmp_path / "m")
    got = plain(through(loader, load(tmp_path / "m"), **options))
    wanted = total(*(plain(through(loader, part, **options)) for part in parts))
    assert relative_error(got, wanted) < F32_ROUNDING
    assert any("spelled otherwise" in warning for warning in record["warnings"])
    report = lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")
    assert (report["ok"], report["sites"]) == (True, len(names(tmp_path / "m")))


# A module that no table has stops the renaming; beside it, two names of one module.
STOPPED = {
    "LTX": (
        ["transformer_blocks.0.attn1.to_q", "patchify_proj", "transformer_blocks.0.attn1.to_x"],
        ["transformer_blocks.0.attn1.to_q", "proj_in"],
    ),
    "Z-Image": (
        ["layers.0.attention.to_q", "layers.0.attention.out", "siglip_embedder.1"],
        ["layers.0.attention.to_q", "layers.0.attention.to_out.0"],
    ),
}


@pytest.mark.parametrize("model", STOPPED)
def test_one_module_is_never_written_under_two_names(model: str, tmp_path: Path) -> None:
    one, two = STOPPED[model]
    a = write(tmp_path / "zoo/a.safetensors", tensors_of([f"diffusion_model.{m}" for m in one]))
    b = write(tmp_path / "zoo/b.safetensors", tensors_of([f"transformer.{m}" for m in two]))
    with pytest.raises(LayoutMismatch, match=f"one module of {model} in two ways") as caught:
        merge(tmp_path / "zoo", tmp_path / "m")
    assert f"{one[1]} in {a}" in caught.value.problem
    assert two[1] in caught.value.problem
    assert one[2] in caught.value.problem  # why they could not be put for each other
    assert str(b) in caught.value.problem
    assert not (tmp_path / "m").exists()


SGM = {
    "input_blocks.0.0": (4, H),
    "input_blocks.3.0.op": (H, H),
    "input_blocks.4.0.in_layers.2": (H, H),
    "input_blocks.4.1.transformer_blocks.1.attn1.to_q": (H, H),
    "input_blocks.8.1.proj_in": (H, H),
    "middle_block.0.emb_layers.1": (H, H),
    "middle_block.1.transformer_blocks.0.ff.net.0.proj": (H, H),
    "output_blocks.2.1.transformer_blocks.0.attn2.to_out.0": (H, H),
    "output_blocks.5.2.conv": (H, H),
    "output_blocks.8.0.skip_connection": (H, H),
    "time_embed.2": (H, H),
    "label_emb.0.0": (H, H),
    "out.2": (H, 4),
}
SGM_THERE = {
    "conv_in": (4, H),
    "down_blocks.0.downsamplers.0.conv": (H, H),
    "down_blocks.1.resnets.0.conv1": (H, H),
    "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q": (H, H),
    "down_blocks.2.attentions.1.proj_in": (H, H),
    "mid_block.resnets.0.time_emb_proj": (H, H),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": (H, H),
    "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_out.0": (H, H),
    "up_blocks.1.upsamplers.0.conv": (H, H),
    "up_blocks.2.resnets.2.conv_shortcut": (H, H),
    "time_embedding.linear_2": (H, H),
    "add_embedding.linear_1": (H, H),
    "conv_out": (H, 4),
}


def sdxl(tensors: Mapping[str, Tensor]) -> Updates:
    """What diffusers makes of a file of SDXL, by PEFT's names, alpha multiplied in."""
    state, alphas = loaders.StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        {k: v.clone() for k, v in tensors.items()},
        unet_config=SimpleNamespace(layers_per_block=2),
    )
    plain = {k.replace(".processor.", "."): v for k, v in state.items()}
    plain = TO_PEFT(plain)
    plain = {k.replace("to_out.lora", "to_out.0.lora"): v for k, v in plain.items()}
    for key, alpha in (alphas or {}).items():
        module = key.replace(".processor.", ".").removesuffix(".alpha")
        for end in ("_lora.down.weight", ".lora.down.weight", ".down.weight"):
            module = module.removesuffix(end).removesuffix("_lora").removesuffix(".lora")
        module = module + ".0" if module.endswith(".to_out") else module
        plain[f"{module}.alpha"] = torch.tensor(float(alpha))
    return updates_of(plain)


@pytest.mark.parametrize("more", [0, 1], ids=["even", "diffusers more"])
@pytest.mark.parametrize("ends", ["a_b", "down_up"])
def test_both_names_of_sdxls_blocks_are_one_module(ends: str, more: int, tmp_path: Path) -> None:
    here, blocks = SGM, SGM_THERE
    if ends == "down_up":  # diffusers' converter of flat names mangles those outside of the blocks
        here = {name: shape for name, shape in SGM.items() if "put_blocks." in name}
        here.pop("input_blocks.0.0")
        blocks = {k: shape for k, shape in SGM_THERE.items() if k.startswith(("down_", "up_"))}
    one = tensors_of(flat("lora_unet_", here), ends="down_up", alpha=1.0, seed=1)
    there = dotted("unet.", blocks) if ends == "a_b" else flat("lora_unet_", blocks)
    alpha = None if ends == "a_b" else 1.0
    parts = [
        one,
        *(
            tensors_of(there, ends=ends, alpha=alpha, rank=3, seed=seed)
            for seed in range(2, 3 + more)
        ),
    ]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m")
    assert len(names(tmp_path / "m")) == len(here) == len(blocks)
    # Names of diffusers' blocks are what its converter makes of the authors': the same sum.
    wanted = total(*map(sdxl, parts))
    assert relative_error(sdxl(load(tmp_path / "m")), wanted) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_stable_diffusion_1_is_not_taken_for_sdxl(tmp_path: Path) -> None:
    xl = "input_blocks_4_1_transformer_blocks_1_attn1_to_q"  # only SDXL has a second one there
    zoo = tmp_path / "zoo"
    write(zoo / "xl.safetensors", tensors_of([f"lora_unet_{xl}"], ends="down_up"))
    sd = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"  # only SD has attention there
    write(zoo / "sd.safetensors", tensors_of([f"lora_unet_{sd}"], ends="down_up"))
    with pytest.raises(LayoutMismatch, match=r"in two ways"):
        merge(zoo, tmp_path / "m")
    (zoo / "xl.safetensors").unlink()
    here = "input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    write(zoo / "sgm.safetensors", tensors_of([f"lora_unet_{here}"], ends="down_up"))
    merge(zoo, tmp_path / "m")
    assert names(tmp_path / "m") == {f"lora_unet_{here}"}


def test_sd3_is_what_diffusers_makes_of_a_whole_model(tmp_path: Path) -> None:
    """There is no converter of LoRAs; the one of models takes updates as well as weights."""
    here = {
        "joint_blocks.0.x_block.attn.qkv": (H, 3 * H),
        "joint_blocks.0.x_block.attn.proj": (H, H),
        "joint_blocks.0.x_block.mlp.fc1": (H, 4 * H),
        "joint_blocks.0.x_block.mlp.fc2": (4 * H, H),
        "joint_blocks.0.x_block.adaLN_modulation.1": (H, 6 * H),
        "joint_blocks.0.context_block.attn.qkv": (H, 3 * H),
        "joint_blocks.0.context_block.attn.proj": (H, H),
        "joint_blocks.0.context_block.mlp.fc1": (H, 4 * H),
        "joint_blocks.0.context_block.mlp.fc2": (4 * H, H),
        "t_embedder.mlp.0": (H, H),
        "y_embedder.mlp.2": (H, H),
        "final_layer.linear": (H, H),
        "final_layer.adaLN_modulation.1": (H, 2 * H),
    }
    one = tensors_of(dotted("diffusion_model.", here), seed=1)
    two = tensors_of({"transformer.transformer_blocks.0.attn.to_q": (H, H)}, seed=2)
    write(tmp_path / "zoo/a.safetensors", one)
    write(tmp_path / "zoo/b.safetensors", two)
    merge(tmp_path / "zoo", tmp_path / "m")
    model: dict[str, Tensor] = _Any()
    for name, update in updates_of(one).items():
        model[f"{name.removeprefix('diffusion_model.')}.weight"] = torch.from_numpy(update)
    for block in range(2):
        model[f"joint_blocks.{block}.x_block.attn.qkv.weight"] = model.get(
            f"joint_blocks.{block}.x_block.attn.qkv.weight", torch.zeros(3 * H, H)
        )
    converted = OF_SD3(model)
    got = updates_of(load(tmp_path / "m"))
    wanted = {
        f"transformer.{key.removesuffix('.weight')}": value.double().numpy()
        for key, value in converted.items()
        if f"transformer.{key.removesuffix('.weight')}" in got and key.endswith(".weight")
    }
    wanted = total(wanted, updates_of(two))
    assert len(got) == len(here) + 4
    assert relative_error(got, wanted) < F32_ROUNDING


class _Any(dict[str, Tensor]):
    """A checkpoint that has whatever a converter asks for."""

    def __missing__(self, key: str) -> Tensor:
        return torch.zeros(H, H)

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, torch.zeros(3 * H, H) if "qkv" in key else torch.zeros(2 * H, H))


def test_the_last_layers_halves_change_places(tmp_path: Path) -> None:
    both = {"double_blocks.0.img_attn.proj": (H, H), "final_layer.adaLN_modulation.1": (H, 2 * H)}
    one = tensors_of(flat("lora_unet_", both), ends="down_up", seed=1)
    two = tensors_of(dotted("transformer.", FLUX_THERE), seed=2)
    write(tmp_path / "zoo/a.safetensors", one)
    write(tmp_path / "zoo/b.safetensors", two)
    merge(tmp_path / "zoo", tmp_path / "m")
    got = updates_of(load(tmp_path / "m"))["transformer.norm_out.linear"]
    was = updates_of(one)["lora_unet_final_layer_adaLN_modulation_1"]
    wanted = torch.from_numpy(was).roll(H, 0).numpy()
    assert relative_error({"": got}, {"": wanted}) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_a_fused_projection_of_a_single_block_is_cut_by_the_models_width(tmp_path: Path) -> None:
    """The width of the whole model is in diffusers' converter, so it has to be the width here."""
    width = 3072
    one = tensors_of(
        {"lora_unet_single_blocks_0_linear1": (width, 7 * width)}, ends="down_up", rank=1, seed=1
    )
    two = tensors_of(
        {"transformer.single_transformer_blocks.0.attn.to_k": (width, width)}, rank=1, seed=2
    )
    write(tmp_path / "zoo/a.safetensors", one)
    write(tmp_path / "zoo/b.safetensors", two)
    merge(tmp_path / "zoo", tmp_path / "m", rank=2)
    loader = loaders.FluxLoraLoaderMixin
    got = through(loader, load(tmp_path / "m"), return_alphas=True)
    wanted = total(*(through(loader, part, return_alphas=True) for part in (one, two)))
    assert len(got) == 4
    assert relative_error(got, wanted) < F32_ROUNDING


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("double_blocks.0.unheard_of", (H, H)),  # in no table
        ("single_blocks.0.linear1", (H, 8 * H)),  # of neither Flux's width
        ("double_blocks.0.img_mlp.0", (H, 5 * H)),
    ],
)
def test_what_is_not_certain_is_refused(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    write(tmp_path / "zoo/a.safetensors", tensors_of({f"diffusion_model.{name}": shape}))
    two = tensors_of(dotted("transformer.", FLUX_THERE))
    write(tmp_path / "zoo/b.safetensors", two)
    with pytest.raises(LayoutMismatch, match=r"in two ways: .* in .*; .* in "):
        merge(tmp_path / "zoo", tmp_path / "m")


def test_a_refusal_names_the_module_in_no_table_and_quotes_keys_of_the_files(
    tmp_path: Path,
) -> None:
    here = {"double_blocks.0.unheard_of": (H, H), "double_blocks.0.img_attn.proj": (H, H)}
    one = tensors_of(dotted("diffusion_model.", here))
    two = tensors_of(dotted("transformer.", FLUX_THERE))
    write(tmp_path / "zoo/a.safetensors", one)
    write(tmp_path / "zoo/b.safetensors", two)
    with pytest.raises(LayoutMismatch) as caught:
        merge(tmp_path / "zoo", tmp_path / "m")
    problem = caught.value.problem
    assert re.search(
        r"double_blocks\.0\.unheard_of in \S+a\.safetensors is a module whose", problem
    )
    quoted = re.findall(r"(\S+) in \S+\.safetensors", problem)
    assert len(quoted) == 3
    for name in quoted:
        assert any(name in key for key in (*one, *two)), name


def test_the_guidance_layer_of_chroma_has_one_name(tmp_path: Path) -> None:
    guidance = {
        "in_proj": "in_proj",
        "out_proj": "out_proj",
        "layers.0.in_layer": "layers.0.linear_1",
        "layers.1.out_layer": "layers.1.linear_2",
    }
    place = "distilled_guidance_layer."
    here = {f"{place}{name}": (H, H) for name in guidance}
    there = {f"{place}{name}": (H, H) for name in guidance.values()}
    write(
        tmp_path / "zoo/a.safetensors",
        tensors_of(dotted("diffusion_model.", {**here, "double_blocks.0.img_attn.proj": (H, H)})),
    )
    write(
        tmp_path / "zoo/b.safetensors",
        tensors_of(
            dotted("transformer.", {**there, "transformer_blocks.0.attn.to_out.0": (H, H)}), seed=1
        ),
    )
    merge(tmp_path / "zoo", tmp_path / "m")
    assert names(tmp_path / "m") == {
        *(f"transformer.{name}" for name in there),
        "transformer.transformer_blocks.0.attn.to_out.0",
    }


def test_a_file_with_both_names_of_a_module_is_refused(tmp_path: Path) -> None:
    both = {**flat("lora_unet_", Z_IMAGE), "lora_unet_layers_0_attention_to_q": (H, H)}
    write(tmp_path / "zoo/a.safetensors", tensors_of(both, ends="down_up"))
    with pytest.raises(NoAdaptersFound, match=r"in two ways, .*attention_qkv and .*attention_to_q"):
        merge(tmp_path / "zoo", tmp_path / "m")


def test_one_naming_stays_as_it_is(tmp_path: Path) -> None:
    parts = [
        tensors_of(flat("lora_unet_", FLUX), ends="down_up", alpha=1.0, seed=seed)
        for seed in (1, 2)
    ]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    record = merge(tmp_path / "zoo", tmp_path / "m")
    assert relative_error(updates_of(load(tmp_path / "m")), total(*map(updates_of, parts))) < (
        F32_ROUNDING
    )
    assert not [warning for warning in record["warnings"] if "spelled" in warning]


def test_an_update_takes_the_other_naming_in_and_out(tmp_path: Path) -> None:
    for seed in (1, 2):
        tensors = tensors_of(dotted("transformer.", FLUX_THERE), seed=seed)
        write(tmp_path / f"zoo/{seed}.safetensors", tensors)
    fused = {"double_blocks.0.img_attn.qkv": (H, 3 * H)}
    new = tensors_of(flat("lora_unet_", fused), ends="down_up", alpha=1.0, seed=3)
    write(tmp_path / "new/c.safetensors", new)
    two = [
        "transformer.transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.0.attn.to_v",
    ]
    more = tensors_of({**dict.fromkeys([*two, two[0].replace("to_q", "to_k")], (H, H))}, seed=4)
    write(tmp_path / "zoo/3.safetensors", more)
    merge(tmp_path / "zoo", tmp_path / "m", updatable=True, method="lego", rank=4, n_init=1)
    added = lego_ray.update(tmp_path / "m", add=[tmp_path / "new"], runner="inline")
    assert added["skipped_sites"] == []
    gone = lego_ray.update(added["output"], remove=["c"], runner="inline")
    before, after = updates_of(load(tmp_path / "m")), updates_of(load(Path(gone["output"])))
    assert relative_error(after, before) < F32_ROUNDING


def zoo_of(place: Path, *parts: dict[str, Tensor]) -> Path:
    for number, part in enumerate(parts):
        write(place / f"{number}.safetensors", part)
    return place


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        ("comfyui", "diffusion_model.blocks.0.self_attn.q"),
        ("kohya", "lora_unet_blocks_0_self_attn_q"),
        ("diffusers", "transformer.blocks.0.attn1.to_q"),
        ("peft", "base_model.model.blocks.0.attn1.to_q"),
    ],
)
def test_wan_is_written_in_any_layout(layout: str, wanted: str, tmp_path: Path) -> None:
    ten = {name: shape for name, shape in WAN.items() if name.startswith("blocks")}
    parts = [
        tensors_of(flat("lora_unet_", ten), ends="down_up", alpha=1.0, seed=1),
        tensors_of(dotted("transformer.", {"blocks.0.attn1.to_q": (H, H)}), seed=2),
    ]
    zoo = zoo_of(tmp_path / "zoo", *parts)
    merge(zoo, tmp_path / "m", layout=layout)
    assert wanted in names(tmp_path / "m")
    loader = loaders.WanLoraLoaderMixin
    sums = total(*(through(loader, part) for part in parts))
    if layout == "peft":
        assert (tmp_path / "m/adapter_config.json").is_file()
        got = {
            name.replace("base_model.model.", "transformer."): update
            for name, update in updates_of(load(tmp_path / "m")).items()
        }
    else:
        got = through(loader, load(tmp_path / "m"))
    assert relative_error(got, sums) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["ok"]


def test_a_zoo_of_fused_names_is_written_in_diffusers_and_comfyuis(tmp_path: Path) -> None:
    more = {"lora_te1_text_model_encoder_layers_0_mlp_fc1": (H, H)}
    one = tensors_of({**flat("lora_unet_", FLUX), **more}, ends="down_up", alpha=1.0, seed=1)
    zoo = zoo_of(tmp_path / "zoo", one)
    loader = loaders.FluxLoraLoaderMixin
    wanted = plain(through(loader, {k: v for k, v in one.items() if "final" not in k}))
    merge(zoo, tmp_path / "m", layout="diffusers")
    got = updates_of(load(tmp_path / "m"))
    final = got.pop("transformer.proj_out")  # of which diffusers forgets the alpha
    assert relative_error(plain(got), wanted) < F32_ROUNDING
    was = updates_of(one)
    assert relative_error({"": final}, {"": was["lora_unet_final_layer_linear"]}) < F32_ROUNDING
    merge(zoo, tmp_path / "c", layout="comfyui")
    got = updates_of(load(tmp_path / "c"))
    te = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    flattened = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1"
        if name == te
        else f"lora_unet_{name.removeprefix('diffusion_model.').replace('.', '_')}": update
        for name, update in got.items()
    }
    assert relative_error(flattened, was) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "c", sources=zoo)["ok"]


def test_sdxl_is_written_in_either_naming(tmp_path: Path) -> None:
    there = tensors_of(dotted("unet.", SGM_THERE), seed=1)
    zoo = zoo_of(tmp_path / "zoo", there)
    merge(zoo, tmp_path / "k", layout="kohya")
    assert names(tmp_path / "k") == set(flat("lora_unet_", SGM))
    assert relative_error(sdxl(load(tmp_path / "k")), sdxl(there)) < F32_ROUNDING
    merge(tmp_path / "k", tmp_path / "d", layout="diffusers")
    assert names(tmp_path / "d") == set(there_names(there))
    assert relative_error(updates_of(load(tmp_path / "d")), updates_of(there)) < F32_ROUNDING


def there_names(tensors: Mapping[str, Tensor]) -> set[str]:
    return {key.split(".lora_")[0] for key in tensors}


def test_authors_names_in_diffusers_prefix_load_as_they_are(tmp_path: Path) -> None:
    """diffusion-pipe's HunyuanVideo: PEFT's settings in the header would name modules of no model."""
    parts = [tensors_of(dotted("transformer.", HUNYUAN), seed=seed) for seed in (1, 2)]
    merge(zoo_of(tmp_path / "zoo", *parts), tmp_path / "m")
    assert "lora_adapter_metadata" not in metadata_of(tmp_path / "m")
    loader = loaders.HunyuanVideoLoraLoaderMixin
    got = through(loader, load(tmp_path / "m"))
    assert relative_error(got, total(*(through(loader, part) for part in parts))) < F32_ROUNDING


def test_a_layout_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    unknown = zoo_of(tmp_path / "unknown", tensors_of(["diffusion_model.blocks.0.attn1.what"]))
    with pytest.raises(LayoutMismatch, match="is not known"):
        merge(unknown, tmp_path / "m", layout="diffusers")
    lacking = {
        **{f"transformer_blocks.0.attn2.to_{part}": (H, H) for part in "qk"},
        "transformer_blocks.0.ff_context.net.2": (H, H),
        "transformer_blocks.0.norm1_context.linear": (H, 6 * H),
    }
    zoo_of(tmp_path / "lacking", tensors_of(dotted("transformer.", lacking)))
    says = r"norm1_context.linear is called .* of Stable Diffusion 3 has 3 of these 4 modules"
    with pytest.raises(LayoutMismatch, match=says):
        merge(tmp_path / "lacking", tmp_path / "m", layout="comfyui")
    # It may be Qwen-Image, whose module it is, or Flux, where it is a part of one.
    either = zoo_of(tmp_path / "either", tensors_of(["transformer.transformer_blocks.0.attn.to_q"]))
    with pytest.raises(LayoutMismatch, match=r"several readings.* of Flux.*Qwen-Image"):
        merge(either, tmp_path / "m", layout="comfyui")
    surely = {"transformer_blocks.0.attn.to_q": (H, H), "transformer_blocks.0.img_mod.1": (H, H)}
    zoo_of(tmp_path / "qwen", tensors_of(dotted("transformer.", surely)))
    merge(tmp_path / "qwen", tmp_path / "q", layout="comfyui")
    assert names(tmp_path / "q") == set(dotted("diffusion_model.", surely))
    from tests.zoo import write_adapter

    write_adapter(tmp_path / "peft/a")
    with pytest.raises(LayoutMismatch, match="no names in comfyui's layout"):
        merge(tmp_path / "peft", tmp_path / "m", layout="comfyui")
    assert merge(tmp_path / "peft", tmp_path / "p", layout="peft")["sites"] == 4


@pytest.mark.parametrize("third", ["", "diffusion_model."])
def test_a_third_prefix_is_brought_to_the_one_of_the_split_names(
    third: str, tmp_path: Path
) -> None:
    there = {"transformer_blocks.0.attn.to_q": (H, H), "transformer_blocks.0.attn.to_out.0": (H, H)}
    parts = [
        tensors_of(flat("lora_unet_", FLUX), ends="down_up", alpha=1.0, seed=1),
        tensors_of(flat("lora_transformer_", there), ends="down_up", alpha=2.0, rank=3, seed=2),
        tensors_of(dotted(third, there), rank=1, seed=3),
    ]
    for number, part in enumerate(parts):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m")
    merged = updates_of(load(tmp_path / "m"))
    query = [update for name, update in merged.items() if name.endswith("blocks.0.attn.to_q")]
    fused, flattened, bare = map(updates_of, parts)
    wanted = (
        fused["lora_unet_double_blocks_0_img_attn_qkv"][:H]
        + flattened["lora_transformer_transformer_blocks_0_attn_to_q"]
        + bare[f"{third}transformer_blocks.0.attn.to_q"]
    )
    assert len(query) == 1
    assert not any(name.startswith("lora_") for name in merged)
    assert relative_error({"q": query[0]}, {"q": wanted}) < F32_ROUNDING


@pytest.mark.parametrize(
    ("begin", "layout", "wanted"),
    [
        ("lora_unet__", "kohya", "lora_unet_transformer_blocks_0_attn_to_q"),
        ("pipe.dit.", "comfyui", "diffusion_model.transformer_blocks.0.attn.to_q"),
        ("", "comfyui", "diffusion_model.transformer_blocks.0.attn.to_q"),
        ("model.diffusion_model.", "comfyui", "diffusion_model.transformer_blocks.0.attn.to_q"),
        ("lora_transformer_", "kohya", "lora_unet_transformer_blocks_0_attn_to_q"),
    ],
)
def test_a_layout_that_is_asked_for_has_its_own_prefix(
    begin: str, layout: str, wanted: str, tmp_path: Path
) -> None:
    paths = {"transformer_blocks.0.attn.to_q": (H, H), "transformer_blocks.0.img_mod.1": (H, H)}
    is_flat = begin.endswith("_")
    modules = flat(begin, paths) if is_flat else dotted(begin, paths)
    part = tensors_of(modules, ends="down_up" if is_flat else "a_b", alpha=1.0)
    write(tmp_path / "zoo/a.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m", layout=layout, base_model="Qwen/Qwen-Image")
    got = updates_of(load(tmp_path / "m"))
    assert wanted in got
    assert relative_error({"": got[wanted]}, {"": next(iter(updates_of(part).values()))}) < 1e-6
    merge(tmp_path / "zoo", tmp_path / "n")  # as the adapters have it, where no layout is asked for
    assert names(tmp_path / "n") == set(modules)


def test_names_of_a_layout_that_is_asked_for_have_no_name_of_an_adapter(tmp_path: Path) -> None:
    part = tensors_of({"pipe.dit.blocks.0.self_attn.q_proj": (H, H)}, ends="default")
    write(tmp_path / "zoo/a.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m", layout="comfyui", base_model="Anima")
    got = through(loaders.AnimaLoraLoaderMixin, load(tmp_path / "m"))
    assert (
        relative_error(
            got,
            {"transformer.transformer_blocks.0.attn1.to_q": next(iter(updates_of(part).values()))},
        )
        < F32_ROUNDING
    )
    assert all(".default." not in key for key in load(tmp_path / "m"))
    merge(tmp_path / "zoo", tmp_path / "n")
    assert all(".default." in key for key in load(tmp_path / "n"))


@pytest.mark.parametrize("base", ["Qwen/Qwen-Image", "base"])
def test_names_of_qwen_image_are_not_two_sides_of_flux(base: str, tmp_path: Path) -> None:
    paths = ["txt_in", "img_in", "transformer_blocks.0.attn.to_q", "norm_out.linear"]
    modules = [f"diffusion_model.{path}" for path in paths]
    write(tmp_path / "zoo/a.safetensors", tensors_of(modules))
    merge(tmp_path / "zoo", tmp_path / "m", base_model=base)
    assert names(tmp_path / "m") == set(modules)
    merge(tmp_path / "zoo", tmp_path / "n", base_model="Qwen/Qwen-Image", layout="diffusers")
    assert names(tmp_path / "n") == {f"transformer.{path}" for path in paths}


def test_names_of_a_model_in_no_table_get_the_prefix_that_means_the_same(tmp_path: Path) -> None:
    modules = {"double_blocks.0.img_attn.other": (H, H), "double_blocks.1.img_attn.other": (H, H)}
    write(tmp_path / "zoo/a.safetensors", tensors_of(modules))
    merge(tmp_path / "zoo", tmp_path / "m", layout="comfyui")
    assert names(tmp_path / "m") == {f"diffusion_model.{name}" for name in modules}
    flat_names = flat("lora_unet__", modules)
    write(tmp_path / "flat/a.safetensors", tensors_of(flat_names, ends="down_up", alpha=1.0))
    merge(tmp_path / "flat", tmp_path / "n", layout="kohya")
    assert names(tmp_path / "n") == set(flat("lora_unet_", modules))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("blocks.0.cross_attn.k_img", "it has k_img of Wan and no v_img, and diffusers raises"),
        ("time_embedding.0", "outside of its blocks alone, and diffusers raises"),
    ],
)
def test_what_diffusers_does_not_take_of_wan_is_said(path: str, words: str, tmp_path: Path) -> None:
    part = tensors_of({f"diffusion_model.{path}": (H, H)})
    write(tmp_path / "zoo/a.safetensors", part)
    with pytest.raises(
        ValueError, match=r"should be empty|empty sequence|iterable argument is empty"
    ):
        through(loaders.WanLoraLoaderMixin, part)
    record = merge(tmp_path / "zoo", tmp_path / "m")
    assert words in " ".join(record["warnings"])


def test_a_table_is_ruled_out_by_the_base_model_also_where_it_alone_has_all_modules(
    tmp_path: Path,
) -> None:
    """Of Flux.2 it is not known whether a LoRA's halves are swapped; of FLUX.1 they are."""
    authors = {
        "double_blocks.0.img_attn.qkv": (H, 3 * H),
        "final_layer.adaLN_modulation.1": (H, 2 * H),
    }
    there = {"transformer_blocks.0.attn.to_q": (H, H), "norm_out.linear": (H, 2 * H)}
    a = tensors_of(dotted("diffusion_model.", authors), seed=1)
    b = tensors_of(dotted("transformer.", there), seed=2)
    write(tmp_path / "zoo/a.safetensors", a)
    alone = write(tmp_path / "one/a.safetensors", a)
    write(tmp_path / "zoo/b.safetensors", b)
    flux2 = "black-forest-labs/FLUX.2-dev"
    with pytest.raises(LayoutMismatch):
        merge(tmp_path / "zoo", tmp_path / "m", base_model=flux2)
    with pytest.raises(LayoutMismatch):
        merge(alone, tmp_path / "m", base_model=flux2, layout="diffusers")
    merge(tmp_path / "zoo", tmp_path / "m", base_model="black-forest-labs/FLUX.1-dev")
    mine, theirs = updates_of(a), updates_of(b)
    shift, scale = (
        mine["diffusion_model.final_layer.adaLN_modulation.1"][part]
        for part in (slice(0, H), slice(H, 2 * H))
    )
    wanted = (
        theirs["transformer.norm_out.linear"]
        + torch.cat([torch.from_numpy(scale), torch.from_numpy(shift)]).numpy()
    )
    got = updates_of(load(tmp_path / "m"))["transformer.norm_out.linear"]
    assert relative_error({"norm_out": got}, {"norm_out": wanted}) < F32_ROUNDING


def test_an_update_uses_no_table_that_the_base_model_rules_out() -> None:
    last, there = "diffusion_model.final_layer.adaLN_modulation.1", "transformer.norm_out.linear"
    sites = [factors(last, shape=(H, 2 * H))]
    sites += [factors("diffusion_model.double_blocks.0.img_attn.proj", shape=(H, H))]
    for base_model, expected in (("FLUX.1-dev", there), ("FLUX.2-dev", last)):
        mine = replace(adapter("a", sites, base_model=base_model), format="comfyui")
        assert expected in {each.site for each in as_known(mine, {there: (H, 2 * H)}).sites}
