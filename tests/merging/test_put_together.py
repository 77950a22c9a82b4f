"""Merges in layouts that have several modules as one, put together again when they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders import lora_pipeline as loaders
from torch import Tensor

import lego_ray
from lego_ray.errors import LayoutMismatch
from tests.image_zoo import Updates
from tests.lone_zoo import load, tensors_of, through, total, updates_of
from tests.merging.test_two_namings import (
    FLUX,
    FLUX2,
    FLUX2_THERE,
    FLUX_THERE,
    HUNYUAN,
    Z_IMAGE,
    Z_IMAGE_THERE,
    H,
    dotted,
    flat,
    merge,
    names,
    plain,
    zoo_of,
)
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

Tensors = dict[str, Tensor]
ATTENTION = "transformer_blocks.0.attn."
WIDE = {f"{ATTENTION}{part}": (H, H) for part in ("to_q", "to_k", "to_v")}


def nonzero(updates: Updates) -> Updates:
    """Without modules that a converter made of rows of zeros."""
    return {name: update for name, update in updates.items() if np.abs(update).max() > 0}


# By what they are of: diffusers' loader, adapters with split names, some with fused ones, layouts.
SPLIT: dict[str, tuple[Any, list[Tensors], dict[str, Any], tuple[str, ...]]] = {
    "Flux.1": (
        loaders.FluxLoraLoaderMixin,
        [
            tensors_of(dotted("transformer.", FLUX_THERE), rank=3, seed=1),
            tensors_of(dotted("transformer.", WIDE), seed=2),
        ],
        {"return_alphas": True},
        ("kohya",),
    ),
    "Flux.1, fused and split": (
        loaders.FluxLoraLoaderMixin,
        [
            # diffusers forgets the alpha of the last layer
            tensors_of(
                flat("lora_unet_", {k: v for k, v in FLUX.items() if "final" not in k}),
                ends="down_up",
                alpha=1.0,
                seed=1,
            ),
            tensors_of(dotted("transformer.", FLUX_THERE), rank=3, seed=2),
        ],
        {"return_alphas": True},
        ("kohya",),
    ),
    "Flux.2": (
        loaders.Flux2LoraLoaderMixin,
        [
            tensors_of(dotted("transformer.", {**FLUX2_THERE, **WIDE}), rank=3, seed=1),
            tensors_of(dotted("diffusion_model.", FLUX2), seed=2),
        ],
        {},
        ("comfyui",),
    ),
    "Z-Image": (
        loaders.ZImageLoraLoaderMixin,
        [
            tensors_of(dotted("transformer.", Z_IMAGE_THERE), rank=3, seed=1),
            tensors_of(flat("lora_unet_", Z_IMAGE), ends="down_up", alpha=1.0, seed=2),
        ],
        {},
        ("kohya",),
    ),
}


@pytest.mark.parametrize("method", ["concat", "lego", "svd"])
@pytest.mark.parametrize("case", SPLIT)
def test_diffusers_reads_the_update_of_the_parts(case: str, method: str, tmp_path: Path) -> None:
    loader, parts, options, layouts = SPLIT[case]
    zoo = zoo_of(tmp_path / "zoo", *parts)
    asked: dict[str, Any] = {"method": method, "rank": 8 if method == "concat" else 2}
    merge(zoo, tmp_path / "split", layout="diffusers", **asked)
    wanted = plain(updates_of(load(tmp_path / "split")))
    for layout in layouts:
        record = merge(zoo, tmp_path / layout, layout=layout, **asked)
        got = nonzero(plain(through(loader, load(tmp_path / layout), **options)))
        wanted = {name: wanted[name] for name in sorted(wanted)}
        assert relative_error(got, wanted) < F32_ROUNDING
        assert any("merged in parts and stored whole" in warning for warning in record["warnings"])
        report = lego_ray.verify(tmp_path / layout, sources=zoo)
        assert (report["ok"], report["sites"]) == (True, len(names(tmp_path / layout)))
        if method == "concat":
            assert report["errors"]["relative_error_to_sum"] < F32_ROUNDING
            assert relative_error(
                got, total(*(plain(through(loader, p, **options)) for p in parts))
            ) < (F32_ROUNDING)


def fused_of(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    ends = (".lora_down.weight", ".lora_up.weight")
    if name + ends[0] not in tensors:
        ends = (".lora_A.weight", ".lora_B.weight")
    return tensors[name + ends[0]], tensors[name + ends[1]]


def test_rank_is_the_sum_of_the_parts_and_less_where_they_share_a(tmp_path: Path) -> None:
    whole = "lora_unet_double_blocks_0_img_attn_qkv"
    surely = {"transformer_blocks.0.ff.net.2": (4 * H, H)}
    split = tensors_of(dotted("transformer.", {**WIDE, **surely}), rank=2, seed=1)
    zoo = zoo_of(tmp_path / "zoo", split)
    plan = lego_ray.plan(zoo, rank=2, method="concat", layout="kohya", base_model="FLUX.1-dev")
    told = plan.as_json()["put_together"]
    assert told == [{"site": whole, "rank": 6, "parts": 3, "zero_rows": 0}]
    record = merge(zoo, tmp_path / "m", rank=2, layout="kohya", base_model="FLUX.1-dev")
    tensors = load(tmp_path / "m")
    a, b = fused_of(tensors, whole)
    assert (a.shape, b.shape) == ((6, H), (3 * H, 6))
    assert float(tensors[f"{whole}.alpha"]) == 6
    assert float(tensors["lora_unet_double_blocks_0_img_mlp_2.alpha"]) == 2
    assert any(f"6 at most for {whole}" in warning for warning in record["warnings"])
    for part in range(3):  # block-diagonal
        own = b[part * H : (part + 1) * H]
        assert own.count_nonzero() == own[:, 2 * part : 2 * part + 2].count_nonzero() > 0
    # Parts that were cut from one module share A: the rank is that of the whole.
    shared = dict(split)
    for name in ("to_k", "to_v"):
        shared[f"transformer.{ATTENTION}{name}.lora_A.weight"] = split[
            f"transformer.{ATTENTION}to_q.lora_A.weight"
        ].clone()
    merge(
        zoo_of(tmp_path / "shared", shared),
        tmp_path / "s",
        rank=2,
        layout="kohya",
        base_model="FLUX.1-dev",
    )
    a, b = fused_of(load(tmp_path / "s"), whole)
    assert (a.shape, b.shape) == ((2, H), (3 * H, 2))
    got = updates_of(load(tmp_path / "s"))[whole]
    wanted = np.concatenate(
        [updates_of(shared)[f"transformer.{ATTENTION}{part}"] for part in ("to_q", "to_k", "to_v")]
    )
    assert np.array_equal(got, wanted)


def test_a_part_that_no_adapter_has_is_zero_and_said(tmp_path: Path) -> None:
    surely = {"transformer_blocks.0.ff.net.2": (4 * H, H)}
    one = {f"{ATTENTION}to_k": (H, H), **surely}
    zoo = zoo_of(tmp_path / "zoo", tensors_of(dotted("transformer.", one), rank=2, seed=1))
    record = merge(zoo, tmp_path / "m", rank=2, layout="kohya", base_model="FLUX.1-dev")
    whole = "lora_unet_double_blocks_0_img_attn_qkv"
    a, b = fused_of(load(tmp_path / "m"), whole)
    assert (a.shape, b.shape) == ((2, H), (3 * H, 2))
    assert b[:H].count_nonzero() == b[2 * H :].count_nonzero() == 0
    assert any(f"16 of the 24 of {whole}" in warning for warning in record["warnings"])
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["ok"]


def test_fused_sources_come_back_as_they_were(tmp_path: Path) -> None:
    modules = {k: v for k, v in FLUX.items() if "qkv" in k or "mlp" in k}
    one = tensors_of(flat("lora_unet_", modules), ends="down_up", alpha=1.0, seed=1)
    merge(zoo_of(tmp_path / "zoo", one), tmp_path / "d", rank=2, layout="diffusers")
    assert "transformer.transformer_blocks.0.attn.to_q" in names(tmp_path / "d")
    merge(tmp_path / "d", tmp_path / "k", rank=2, layout="kohya", base_model="FLUX.1-dev")
    got = load(tmp_path / "k")
    assert updates_of(got).keys() == updates_of(one).keys()
    assert all(fused_of(got, name)[0].shape[0] == 2 for name in updates_of(one))
    assert relative_error(updates_of(got), updates_of(one)) < F32_ROUNDING


def test_a_module_that_all_adapters_have_whole_stays_whole(tmp_path: Path) -> None:
    one = tensors_of(flat("lora_unet_", FLUX), ends="down_up", alpha=1.0, seed=1)
    two = tensors_of(dotted("transformer.", FLUX_THERE), rank=3, seed=2)
    zoo = zoo_of(tmp_path / "zoo", one, two)
    plan = lego_ray.plan(zoo, rank=8, method="svd", layout="kohya", base_model="base")
    sites = {site.site for task in plan.tasks for site in task.sites}
    # The second has add_k_proj, so this one is not whole; of the image both have parts.
    assert {site.partition("@")[0] for site in sites if "@" in site} == {
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lora_unet_double_blocks_0_txt_attn_qkv",
        "lora_unet_double_blocks_7_img_attn_qkv",
    }
    few = {k: v for k, v in FLUX_THERE.items() if "add_k" not in k}
    zoo = zoo_of(tmp_path / "few", one, tensors_of(dotted("transformer.", few), rank=3, seed=2))
    plan = lego_ray.plan(zoo, rank=8, method="svd", layout="kohya", base_model="base")
    sites = {site.site for task in plan.tasks for site in task.sites}
    assert "lora_unet_double_blocks_0_txt_attn_qkv" in sites


def test_a_single_blocks_projection_is_put_together_of_four(tmp_path: Path) -> None:
    width = 3072  # that of the model, which is in diffusers' converter
    block = "transformer.single_transformer_blocks.0."
    split = tensors_of(
        {
            f"{block}attn.to_q": (width, width),
            f"{block}attn.to_v": (width, width),
            f"{block}proj_mlp": (width, 4 * width),
        },
        rank=1,
        seed=2,
    )
    zoo = zoo_of(tmp_path / "zoo", split)
    merge(zoo, tmp_path / "m", rank=1, layout="kohya")
    tensors = load(tmp_path / "m")
    a, b = fused_of(tensors, "lora_unet_single_blocks_0_linear1")
    assert (a.shape, b.shape) == ((3, width), (7 * width, 3))
    got = nonzero(through(loaders.FluxLoraLoaderMixin, tensors, return_alphas=True))
    assert relative_error(got, updates_of(split)) < F32_ROUNDING
    xlabs = tensors_of(
        {"single_blocks.0.processor.qkv_lora": (width, 3 * width)}, ends="xlabs", rank=1, seed=3
    )
    merge(zoo_of(tmp_path / "x", xlabs), tmp_path / "xk", rank=1, layout="kohya")
    a, b = fused_of(load(tmp_path / "xk"), "lora_unet_single_blocks_0_linear1")
    assert (a.shape, b.shape) == ((1, width), (7 * width, 1))


def test_a_merge_that_was_put_together_is_updated(tmp_path: Path) -> None:
    for seed in (1, 2):
        zoo_of(tmp_path / f"zoo/{seed}", tensors_of(dotted("transformer.", FLUX_THERE), seed=seed))
    fused = tensors_of(flat("lora_unet_", FLUX), ends="down_up", alpha=1.0, seed=3)
    zoo_of(tmp_path / "new", fused)
    options: dict[str, Any] = {"method": "lego", "rank": 4, "n_init": 1}
    merge(tmp_path / "zoo", tmp_path / "m", layout="kohya", updatable=True, **options)
    before = updates_of(load(tmp_path / "m"))
    added = lego_ray.update(tmp_path / "m", add=[tmp_path / "new"], runner="inline")
    with_it = updates_of(load(Path(added["output"])))
    assert with_it.keys() == before.keys()
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    assert all(abs(with_it[name][rows] - before[name][rows]).max() > 0 for rows in range(0, H))
    sources = [tmp_path / "zoo", tmp_path / "new"]
    assert lego_ray.verify(added["output"], sources=sources)["ok"]
    new = str(tmp_path / "new/0.safetensors")
    gone = lego_ray.update(added["output"], remove=[new], runner="inline")
    after = updates_of(load(Path(gone["output"])))
    assert relative_error(after, before) < F32_ROUNDING


def test_a_merge_on_ray_puts_the_same_bytes_together(tmp_path: Path, local_ray: None) -> None:
    zoo = zoo_of(tmp_path / "zoo", *SPLIT["Flux.1, fused and split"][1])
    for layout in ("sources", "kohya"):
        for runner in ("inline", "ray"):
            place = tmp_path / layout / runner
            merge(zoo, place, layout=layout, method="lego", rank=3, runner=runner, name="merged")
        one, two = (tmp_path / layout / runner for runner in ("inline", "ray"))
        file = next(one.glob("*.safetensors")).name
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_what_rows_a_part_is_must_be_known(tmp_path: Path) -> None:
    """Lumina 2 has fewer heads for keys and values: to_q alone does not show how many."""
    one = {"layers.0.attn.to_q": (H, H), "layers.0.feed_forward.linear_1": (H, 4 * H)}
    zoo = zoo_of(tmp_path / "zoo", tensors_of(dotted("transformer.", one)))
    with pytest.raises(LayoutMismatch, match=r"to_q is a part of one module .* is not known"):
        merge(zoo, tmp_path / "m", layout="comfyui")
    both = {**one, "layers.0.attn.to_v": (H, H // 2)}
    split = tensors_of(dotted("transformer.", both), seed=1)
    merge(zoo_of(tmp_path / "both", split), tmp_path / "m", layout="comfyui")
    got = updates_of(load(tmp_path / "m"))["diffusion_model.layers.0.attention.qkv"]
    assert got.shape == (2 * H, H)
    assert np.array_equal(got[:H], updates_of(split)["transformer.layers.0.attn.to_q"])
    assert not got[H : H + H // 2].any()


def test_z_image_is_put_together_for_comfyui(tmp_path: Path) -> None:
    """Of lora_A and lora_B under ComfyUI's names diffusers does not convert what is fused."""
    split = tensors_of(dotted("transformer.", Z_IMAGE_THERE), rank=3, seed=1)
    fused = tensors_of(dotted("diffusion_model.", Z_IMAGE), seed=2)
    zoo = zoo_of(tmp_path / "zoo", split, fused)
    merge(zoo, tmp_path / "m", layout="comfyui")
    one, two, got = map(updates_of, (split, fused, load(tmp_path / "m")))
    block, there = "diffusion_model.layers.0.", "transformer.layers.0."
    qkv = two[f"{block}attention.qkv"].copy()
    qkv[:H] += one[f"{there}attention.to_q"]
    qkv[2 * H :] += one[f"{there}attention.to_v"]
    wanted = {
        f"{block}attention.qkv": qkv,
        f"{block}attention.out": two[f"{block}attention.out"] + one[f"{there}attention.to_out.0"],
        f"{block}feed_forward.w1": two[f"{block}feed_forward.w1"],
        f"{block}feed_forward.w2": one[f"{there}feed_forward.w2"],
    }
    assert relative_error(got, wanted) < F32_ROUNDING


@pytest.mark.parametrize(
    ("base", "blocks", "wanted"),
    [
        ("black-forest-labs/FLUX.1-dev", 1, "diffusion_model.double_blocks.0.img_attn.qkv"),
        (
            "stabilityai/stable-diffusion-3-medium",
            1,
            "diffusion_model.joint_blocks.0.x_block.attn.qkv",
        ),
        ("Qwen/Qwen-Image", 1, "diffusion_model.transformer_blocks.0.attn.to_q"),
        # More blocks than the others have
        ("base", 60, "diffusion_model.transformer_blocks.0.attn.to_q"),
    ],
)
def test_the_base_model_or_the_number_of_blocks_tells_the_model(
    base: str, blocks: int, wanted: str, tmp_path: Path
) -> None:
    modules = [f"transformer.transformer_blocks.{n}.attn.to_q" for n in range(blocks)]
    zoo = zoo_of(tmp_path / "zoo", tensors_of(modules))
    merge(zoo, tmp_path / "m", layout="comfyui", base_model=base, rank=2)
    assert wanted in names(tmp_path / "m")


def test_what_could_be_of_several_models_is_refused_with_all_named(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", tensors_of(["transformer.transformer_blocks.0.attn.to_q"]))
    with pytest.raises(LayoutMismatch, match="several readings") as refused:
        merge(zoo, tmp_path / "m", layout="comfyui")
    assert all(
        text in str(refused.value)
        for text in (
            *(
                "double_blocks.0.img_attn.qkv",
                "joint_blocks.0.x_block",
                "transformer_blocks.0.attn",
            ),
            *("Flux.1", "Stable Diffusion 3", "Qwen-Image", "--base-model"),
        )
    )


def test_hunyuan_video_is_put_together_under_its_authors_names(tmp_path: Path) -> None:
    split = tensors_of(dotted("transformer.", FLUX_THERE), rank=3, seed=2)
    fused = tensors_of(dotted("transformer.", HUNYUAN), seed=1)
    zoo = zoo_of(tmp_path / "zoo", split, fused)
    merge(zoo, tmp_path / "m", layout="comfyui")
    assert "diffusion_model.double_blocks.0.img_attn.qkv" in names(tmp_path / "m")
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["ok"]
    assert torch.isfinite(next(iter(load(tmp_path / "m").values()))).all()
