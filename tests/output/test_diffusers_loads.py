"""What is published for image models, loaded by diffusers itself: its arithmetic against ours.

The models are tiny and random; `tests.image_zoo` has their modules' names and shapes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin, StableDiffusionLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

import lego_ray
from tests.image_zoo import (
    DIFFUSERS_FILE,
    TEXT,
    UNET,
    Updates,
    factors,
    kohya_name,
    summed,
    update_of,
    updates,
    write_diffusers,
    write_kohya,
)
from tests.zoo import relative_error

# Float32 products of float32 factors, each rounded once more on the way in.
F32_ROUNDING = 16 * 2.0**-24
STYLES = ["new", "flat", "older", "oldest"]


def unet() -> UNet2DConditionModel:
    model: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return model


def text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50,
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=10,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


@pytest.fixture(autouse=True)
def nothing_is_left_out(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Diffusers and PEFT only warn where they leave something out; here that is a failure."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield
    logger.removeHandler(caplog.handler)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [text for text in said if not text.startswith("No LoRA keys associated to CLIP")] == []


def loaded(place: Path | dict[str, torch.Tensor], **options: str) -> Updates:
    """The update of every module of both models, once diffusers has loaded an adapter into them."""
    loader = StableDiffusionLoraLoaderMixin
    state, alphas, metadata = loader.lora_state_dict(
        place if isinstance(place, dict) else str(place), return_lora_metadata=True, **options
    )
    models = {"unet": unet(), "text_encoder": text_encoder()}
    common = {"network_alphas": alphas, "metadata": metadata, "low_cpu_mem_usage": False}
    loader.load_lora_into_unet(dict(state), unet=models["unet"], **common)
    loader.load_lora_into_text_encoder(dict(state), text_encoder=models["text_encoder"], **common)
    out = {}
    for component, model in models.items():
        for name, module in model.named_modules():
            if hasattr(module, "get_delta_weight"):
                [adapter] = module.scaling
                delta = module.get_delta_weight(adapter).detach().double().flatten(1).numpy()
                infix = "text_model." if component == "text_encoder" else ""
                out[f"{component}.{infix}{name}"] = delta
    return out


def merge(sources: Path, output: Path, **options: Any) -> Path:
    lego_ray.merge(
        sources, output=output, **{"rank": 4, "runner": "inline", "n_init": 2, **options}
    )
    return output


def flattened(parts: Updates) -> Updates:
    return {kohya_name(site): update for site, update in parts.items()}


def check(got: Updates, wanted: Updates) -> None:
    assert len(wanted) >= 3
    assert relative_error(got, wanted) < F32_ROUNDING


@pytest.mark.parametrize("style", ["new", "flat", "older"])
def test_our_test_files_mean_to_diffusers_what_they_mean_to_us(style: str, tmp_path: Path) -> None:
    wanted = write_diffusers(tmp_path / DIFFUSERS_FILE, style=style)
    assert len(wanted) == len(UNET) + len(TEXT)
    check(loaded(tmp_path), wanted)
    wanted = write_kohya(tmp_path / "kohya" / "a.safetensors", alpha=3.0)
    check(flattened(loaded(tmp_path / "kohya", weight_name="a.safetensors")), wanted)


@pytest.mark.parametrize("alpha", [1.0, 4.0, None])
def test_one_kohya_file_comes_back_as_diffusers_loads_it(
    alpha: float | None, tmp_path: Path
) -> None:
    write_kohya(tmp_path / "zoo" / "a.safetensors", alpha=alpha)
    out = merge(tmp_path / "zoo", tmp_path / "m")
    before = loaded(tmp_path / "zoo", weight_name="a.safetensors")
    check(loaded(out, weight_name="m.safetensors"), before)


@pytest.mark.parametrize("style", STYLES)
def test_one_diffusers_file_comes_back_as_diffusers_loads_it(style: str, tmp_path: Path) -> None:
    wanted = write_diffusers(tmp_path / "zoo" / "a.safetensors", style=style)
    out = merge(tmp_path / "zoo", tmp_path / "m")
    check(loaded(out), wanted)
    if style != "oldest":  # whose keys diffusers maps for the UNet's own loader only
        check(loaded(tmp_path / "zoo"), wanted)


@pytest.mark.parametrize("compact", [False, True], ids=["padded", "compact"])
def test_mixed_ranks_and_modules_load_whole(compact: bool, tmp_path: Path) -> None:
    zoo, sites = tmp_path / "zoo", list(factors(0, 1))
    parts = [
        write_diffusers(zoo / "a.safetensors", seed=1, rank=2, sites=sites[:8]),
        write_diffusers(zoo / "b.safetensors", seed=2, rank=3, sites=sites[5:]),
    ]
    options = {"rank": 6, "output_reweight": "none", "compact": compact}
    check(loaded(merge(zoo, tmp_path / "m", **options)), summed(parts))
    kohya = tmp_path / "kohya"
    parts = [
        write_kohya(kohya / "a.safetensors", seed=1, rank=2, sites=sites[:8]),
        write_kohya(kohya / "b.safetensors", seed=2, rank=3, sites=sites[5:], alpha=5.0),
    ]
    out = merge(kohya, tmp_path / "k", **options)
    check(flattened(loaded(out, weight_name="k.safetensors")), summed(parts))


def test_what_diffusers_saves_with_its_settings_is_read_as_it_loads_it(tmp_path: Path) -> None:
    """A LoRA of PEFT on the UNet, rsLoRA and patterns and all, saved by diffusers' own saver."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    model = unet()
    model.add_adapter(
        LoraConfig(
            r=4,
            lora_alpha=6,
            use_rslora=True,
            target_modules=["to_q", "to_k", "to_out.0", "proj_in", "conv1"],
            rank_pattern={"attn2.to_k": 2, "^down_blocks.0.resnets.0.conv1": 3},
            alpha_pattern={"attn1.to_q": 1.5},
        )
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        tmp_path / "zoo",
        unet_lora_layers=get_peft_model_state_dict(model),
        unet_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    wanted = loaded(tmp_path / "zoo")
    check(loaded(merge(tmp_path / "zoo", tmp_path / "m")), wanted)
    own = {
        f"unet.{name}": module.get_delta_weight("default").detach().double().flatten(1).numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    check(update_of(tmp_path / "m" / DIFFUSERS_FILE), own)


def test_the_models_with_a_merge_on_them_run(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    parts = [write_diffusers(zoo / f"{seed}.safetensors", seed=seed) for seed in (1, 2)]
    out = merge(zoo, tmp_path / "m", rank=8, output_reweight="none")
    torch.manual_seed(0)
    plain, model = unet().eval(), unet().eval()
    model.load_state_dict(plain.state_dict())
    state, _, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
        str(out), return_lora_metadata=True
    )
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, None, model, metadata=metadata)
    with torch.no_grad():
        for site, update in summed(parts).items():
            if site.startswith("unet."):
                weight: Any = plain.get_submodule(site.removeprefix("unet.")).weight
                weight.add_(torch.from_numpy(update).float().reshape(weight.shape))
        inputs = (torch.ones(1, 4, 8, 8), 5, torch.ones(1, 3, 12))
        torch.testing.assert_close(
            model(*inputs).sample, plain(*inputs).sample, rtol=1e-4, atol=1e-4
        )


def test_a_flux_merge_is_what_diffusers_makes_of_its_sources(tmp_path: Path) -> None:
    """Kohya's Flux files, whose fused modules diffusers takes apart: linear, so sums must agree."""
    sites = {
        "lora_unet_double_blocks_0_img_attn_proj": (8, 8),
        "lora_unet_double_blocks_0_img_attn_qkv": (8, 24),
        "lora_unet_double_blocks_3_txt_mlp_0": (8, 32),
    }
    zoo, converted = tmp_path / "zoo", []
    zoo.mkdir()
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, (d_in, d_out) in sites.items():
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, d_in, generator=generator)
            tensors[f"{name}.lora_up.weight"] = torch.randn(d_out, 4, generator=generator)
            tensors[f"{name}.alpha"] = torch.tensor(2.0 * seed)
        save_file(tensors, zoo / f"{seed}.safetensors")
        converted.append(flux(tensors))
    out = merge(zoo, tmp_path / "m", rank=8, output_reweight="none")
    check(flux(load_file(out / "m.safetensors")), summed(converted))


def flux(tensors: dict[str, torch.Tensor]) -> Updates:
    """The updates that diffusers' Flux loader makes of a kohya file."""
    state = FluxLoraLoaderMixin.lora_state_dict(dict(tensors))
    pairs = {
        key.removesuffix(".lora_A.weight"): (a, state[key.replace("lora_A", "lora_B")])
        for key, a in state.items()
        if key.endswith(".lora_A.weight")
    }
    assert len(pairs) == 5
    return updates(pairs)
