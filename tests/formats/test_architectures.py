"""The tables of architectures, held against diffusers' models and its converters, row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import lora_pipeline as loaders
from diffusers.loaders import single_file_utils
from torch import Tensor, nn

from lego_ray.formats.architectures import ARCHITECTURES, Architecture, Row
from lego_ray.formats.architectures.text import CLIP, T5
from tests.image_zoo import Updates
from tests.lone_zoo import tensors_of, through, updates_of
from tests.merging.test_two_namings import sdxl

# Without types, as they are in diffusers.
OF_UNET: Any = single_file_utils
UNTYPED: Any = diffusers
TEXT: Any = transformers
BY_NAME = {each.name: each for each in (*ARCHITECTURES, CLIP, T5)}
# Linear layers whose LoRA nobody trains, so that no table has them; or of no certain meaning, see there.
LEFT_OUT: Mapping[str, set[str]] = {
    "Flux.2": {"norm_out.linear"},
    "Wan": {"patch_embedding"},
    "Lumina 2": {
        *("x_embedder", "norm_out.linear_1", "norm_out.linear_2"),
        "time_caption_embed.timestep_embedder.linear_1",
        "time_caption_embed.timestep_embedder.linear_2",
        "time_caption_embed.caption_embedder.1",
    },
    "Stable Diffusion 3": {f"transformer_blocks.{n}.norm1_context.linear" for n in (0, 1)},
}


def _models() -> Mapping[str, tuple[Callable[[], nn.Module], ...]]:
    head: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}
    layers: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1}
    rope: dict[str, Any] = {"axes_dims_rope": (4, 6, 6)}
    channels: dict[str, Any] = {"in_channels": 4, "out_channels": 4}
    text: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16}
    clip = TEXT.CLIPTextConfig(**text, num_hidden_layers=1, num_attention_heads=2)
    t5 = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    ltx: dict[str, Any] = {"cross_attention_dim": 32, "caption_channels": 8, **channels}
    return {
        "Flux.1, Chroma or HunyuanVideo": (
            lambda: UNTYPED.FluxTransformer2DModel(
                **head, **layers, **rope, joint_attention_dim=8, pooled_projection_dim=8,
                in_channels=4, guidance_embeds=True,
            ),
            lambda: UNTYPED.ChromaTransformer2DModel(
                **head, **layers, **rope, joint_attention_dim=8, in_channels=4,
                approximator_hidden_dim=8, approximator_layers=1, approximator_num_channels=16,
            ),
        ),
        "Flux.2": (
            lambda: UNTYPED.Flux2Transformer2DModel(
                **head, **layers, axes_dims_rope=(4, 4, 4, 4), joint_attention_dim=8, in_channels=4
            ),
        ),
        "Stable Diffusion 3": (
            lambda: UNTYPED.SD3Transformer2DModel(
                **head, num_layers=2, joint_attention_dim=8, caption_projection_dim=32,
                pooled_projection_dim=8, in_channels=4, sample_size=8, dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
        ),
        "Wan": (
            lambda: UNTYPED.WanTransformer3DModel(
                **head, **channels, num_layers=1, text_dim=8, freq_dim=8, ffn_dim=16, image_dim=8,
                added_kv_proj_dim=32,
            ),
        ),
        "Z-Image": (
            lambda: UNTYPED.ZImageTransformer2DModel(
                n_layers=1, n_refiner_layers=1, dim=32, n_heads=2, n_kv_heads=2, cap_feat_dim=8,
                axes_dims=[4, 6, 6], axes_lens=[8, 8, 8],
            ),
        ),
        "Ideogram 4": (
            lambda: UNTYPED.Ideogram4Transformer2DModel(
                in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
                intermediate_size=16, adaln_dim=8, llm_features_dim=8, mrope_section=(2, 1, 1),
            ),
        ),
        "Anima": (
            lambda: UNTYPED.CosmosTransformer3DModel(
                in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
                num_layers=1, text_embed_dim=8, adaln_lora_dim=4, max_size=(4, 8, 8),
            ),
            lambda: nn.ModuleDict(
                {
                    "text_conditioner": UNTYPED.AnimaTextConditioner(
                        source_dim=8, target_dim=16, model_dim=8, num_layers=1,
                        num_attention_heads=2, target_vocab_size=4,
                    )
                }
            ),
        ),
        "Lumina 2": (
            lambda: UNTYPED.Lumina2Transformer2DModel(
                num_layers=1, num_refiner_layers=1, hidden_size=24, num_attention_heads=3,
                num_kv_heads=1, cap_feat_dim=16, axes_dim_rope=(4, 2, 2),
            ),
        ),
        "Qwen-Image": (
            lambda: UNTYPED.QwenImageTransformer2DModel(
                **head, **rope, num_layers=1, joint_attention_dim=16
            ),
        ),
        "LTX": (
            lambda: UNTYPED.LTXVideoTransformer3DModel(**head, **ltx, num_layers=1),
            lambda: UNTYPED.LTX2VideoTransformer3DModel(**head, **ltx, num_layers=1),
        ),
        "HiDream": tuple(
            lambda experts=experts: UNTYPED.HiDreamImageTransformer2DModel(
                **layers, attention_head_dim=8, num_attention_heads=2, caption_channels=[8, 8],
                text_emb_dim=8, num_routed_experts=experts, axes_dims_rope=(4, 2, 2), patch_size=2,
                in_channels=4, llama_layers=[0, 1],
            )
            for experts in (0, 2)
        ),
        "MiniMax-H3": (
            lambda: UNTYPED.MiniMaxH3Transformer3DModel(
                num_attention_heads=1, attention_head_dim=16, hidden_size=8, num_layers=1,
                num_refiner_layers=1, ffn_dim=8, in_channels=4, audio_in_channels=4, text_dim=8,
                freq_dim=8, time_embed_hidden_dim=8, time_embed_dim=8, rope_freq_dim=2,
            ),
        ),
        "Krea 2": (
            lambda: UNTYPED.Krea2Transformer2DModel(
                in_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=1,
                num_key_value_heads=1, intermediate_size=8, timestep_embed_dim=8, text_hidden_dim=16,
                num_text_layers=2, text_num_attention_heads=1, text_num_key_value_heads=1,
                text_intermediate_size=8, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
                axes_dims_rope=(4, 6, 6),
            ),
        ),
        "SDXL": (lambda: _unet(["DownBlock2D"] + 2 * ["CrossAttnDownBlock2D"], [1, 2, 3]),),
        "Stable Diffusion 1 or 2": (
            lambda: _unet(3 * ["CrossAttnDownBlock2D"] + ["DownBlock2D"], 1),
        ),
        "CLIP": (lambda: TEXT.CLIPTextModelWithProjection(clip),),
        "T5": tuple(
            lambda kind=kind: TEXT.T5EncoderModel(
                TEXT.T5Config(**t5, feed_forward_proj=kind)
            )
            for kind in ("relu", "gated-gelu")
        ),
    }  # fmt: skip


def _unet(down: list[str], depth: int | list[int]) -> nn.Module:
    up = [name.replace("Down", "Up") for name in reversed(down)]
    xl: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,
        "transformer_layers_per_block": depth,
    }
    made: nn.Module = UNTYPED.UNet2DConditionModel(
        block_out_channels=tuple(8 * (n + 1) for n in range(len(down))),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        attention_head_dim=2,
        cross_attention_dim=8,
        norm_num_groups=2,
        use_linear_projection=True,
        **(xl if isinstance(depth, list) else {}),
    )
    return made


MODELS = _models()


@cache
def modules_of(name: str) -> frozenset[str]:
    """Paths of the layers of a tiny model that a LoRA can be on."""
    found: set[str] = set()
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d)
    for make in MODELS[name]:
        with torch.device("meta"):
            model = make()
        found |= {path for path, module in model.named_modules() if isinstance(module, kinds)}
    return frozenset(found)


@pytest.mark.parametrize("name", MODELS)
def test_a_table_has_every_layer_of_the_model(name: str) -> None:
    missing = {path for path in modules_of(name) if BY_NAME[name].read(path) is None}
    assert missing == LEFT_OUT.get(name, set())


# Modules of models that share the table, or that the tiny one has not.
ELSEWHERE: Mapping[str, set[str]] = {
    "SDXL": {"mid_block.resnets.0.conv_shortcut", "mid_block.resnets.1.conv_shortcut"},
    "Stable Diffusion 1 or 2": {
        *("mid_block.resnets.0.conv_shortcut", "mid_block.resnets.1.conv_shortcut"),
        "add_embedding",
    },
    "Flux.1, Chroma or HunyuanVideo": {"x_embedder.proj"},  # HunyuanVideo's
    "LTX": {"prompt_adaln", "audio_prompt_adaln"},  # LTX-2.3's
    "CLIP": {
        "text_model.encoder",
        "encoder",
    },  # one name or the other, by the release of transformers
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_every_module_of_its_table(name: str) -> None:
    there = {re.sub(r"\d+", "0", path) for path in modules_of(name)}
    for row in BY_NAME[name].rows:
        for path in row.diffusers:
            if not path.startswith(tuple(ELSEWHERE.get(name, ("-",)))):
                assert re.sub(r"\d+", "0", path.replace("#", "0")) in there, path


H, R = 8, 2


def shapes_of(architecture: Architecture) -> Iterator[tuple[Row, str, tuple[int, int]]]:
    """Each row that has names on both sides or one on both, the authors' path, d_in and d_out."""
    for row in architecture.rows:
        if ".processor." in row.original:
            continue
        path = row.original.replace("#", "0")
        height = {"equal": 3 * H, "rest": 7 * H, "heads": 5 * H}[row.cut] if row.is_fused else 2 * H
        yield row, path, (row.d_in or H, row.widths * H if row.widths else height)


CONVERTED: Mapping[str, tuple[Any, str, str, set[str]]] = {
    # loader, prefix, ends; rows that it does not take, or not alone
    "Qwen-Image": (loaders.QwenImageLoraLoaderMixin, "diffusion_model.", "a_b", set()),
    "Qwen-Image, kohya": (loaders.QwenImageLoraLoaderMixin, "lora_unet_", "down_up", set()),
    "LTX": (loaders.LTX2LoraLoaderMixin, "diffusion_model.", "a_b", set()),
    "HiDream": (loaders.HiDreamImageLoraLoaderMixin, "diffusion_model.", "a_b", set()),
    "Anima": (loaders.AnimaLoraLoaderMixin, "diffusion_model.", "a_b", set()),
    "Ideogram 4": (
        *(loaders.Ideogram4LoraLoaderMixin, "diffusion_model.", "a_b"),
        # names outside of the blocks, which diffusers refuses under its authors' prefix
        {
            *("input_proj", "llm_cond_proj", "t_embedding.mlp_in", "t_embedding.mlp_out"),
            *("adaln_proj", "final_layer.linear", "final_layer.adaln_modulation"),
        },
    ),
    "Krea 2": (loaders.Krea2LoraLoaderMixin, "diffusion_model.", "a_b", set()),
    "MiniMax-H3": (loaders.MiniMaxH3LoraLoaderMixin, "diffusion_model.", "a_b", set()),
    "MiniMax-H3, kohya": (loaders.MiniMaxH3LoraLoaderMixin, "lora_unet_", "down_up", set()),
    "Z-Image": (
        *(loaders.ZImageLoraLoaderMixin, "lora_unet_", "down_up"),
        # names of the last layers, which diffusers does not convert
        {"x_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1"},
    ),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_each_row_is_what_diffusers_makes_of_it(case: str) -> None:
    loader, prefix, ends, left_out = CONVERTED[case]
    architecture = BY_NAME[case.partition(",")[0]]
    for number, (row, path, shape) in enumerate(shapes_of(architecture)):
        if row.original in left_out:
            continue
        site = prefix + (path.replace(".", "_") if prefix.endswith("_") else path)
        tensors = tensors_of({site: shape}, ends=ends, rank=R, seed=number)
        got = through(loader, tensors)
        assert_same(got, wanted_of(architecture, row, path, tensors, site, "transformer."))


def wanted_of(
    architecture: Architecture,
    row: Row,
    path: str,
    tensors: Mapping[str, Tensor],
    site: str,
    prefix: str,
) -> Updates:
    """What the table makes of a module under its authors' name."""
    [update] = updates_of(tensors).values()
    reading = architecture.read(path)
    assert reading is not None
    assert reading.row is row
    wanted: Updates = {}
    for part in range(len(row.diffusers)):
        start, end = row.rows_of(part, H, len(update)) or (0, 0)
        mine = update if not row.is_fused else update[start:end]
        mine = (
            np.concatenate([mine[len(mine) // 2 :], mine[: len(mine) // 2]])
            if row.is_swapped
            else mine
        )
        wanted[architecture.site(prefix, reading.path("diffusers", part))] = mine
    return wanted


def assert_same(got: Updates, wanted: Updates) -> None:
    assert got.keys() == wanted.keys()
    for name, update in wanted.items():
        assert np.allclose(got[name], update, rtol=1e-6, atol=1e-6), name


def test_lumina_2_is_what_diffusers_makes_of_a_whole_block() -> None:
    """Its converter takes whole blocks, of the width that is in it."""
    width, rows = 2304, (2304, 768, 768)
    architecture = BY_NAME["Lumina 2"]
    modules: dict[str, tuple[int, int]] = {}
    for row in architecture.rows:
        path = row.original.replace("#", "0")
        modules[f"diffusion_model.{path}"] = (width, sum(rows)) if row.is_fused else (H, H)
    tensors = tensors_of(modules, rank=1)
    got = through(loaders.Lumina2LoraLoaderMixin, tensors)
    wanted: Updates = {}
    for site, update in updates_of(tensors).items():
        reading = architecture.read(site.removeprefix("diffusion_model."))
        assert reading is not None
        for part in range(len(reading.row.diffusers)):
            start, end = (0, len(update))
            if reading.row.is_fused:
                start, end = reading.row.rows_of(part, width, len(update)) or (0, 0)
            wanted[f"transformer.{reading.path('diffusers', part)}"] = update[start:end]
    assert_same(got, wanted)


def test_each_row_of_sdxls_blocks_is_what_diffusers_makes_of_it() -> None:
    """Outside of the blocks up and down, diffusers' converter of flat names mangles them."""
    here: dict[str, tuple[int, int]] = {}
    there: dict[str, str] = {}
    for row, path, _ in shapes_of(BY_NAME["SDXL"]):
        if "put_blocks." in path and path != "input_blocks.0.0":
            site = f"lora_unet_{path.replace('.', '_')}"
            here[site] = (H, H)
            there[site] = f"unet.{row.diffusers[0].replace('#', '0')}"
    tensors = tensors_of(here, ends="down_up", alpha=1.0)
    wanted = {there[site]: update for site, update in updates_of(tensors).items()}
    assert_same(sdxl(tensors), wanted)


@pytest.mark.parametrize("name", ["SDXL", "Stable Diffusion 1 or 2"])
def test_each_row_of_a_unet_is_what_diffusers_makes_of_a_whole_model(name: str) -> None:
    model: dict[str, Tensor] = {}
    wanted: dict[str, int] = {}
    for number, (row, path, _) in enumerate(shapes_of(BY_NAME[name])):
        for end in (
            "weight",
            "bias",
        ):  # the converter takes some biases whether they are there or not
            model[f"model.diffusion_model.{path}.{end}"] = torch.tensor([number])
        wanted[f"{row.diffusers[0].replace('#', '0')}.weight"] = number
    model_of: Any = MODELS[name][0]
    config = dict(model_of().config)
    converted = OF_UNET.convert_ldm_unet_checkpoint(model, config)
    got = {key: int(value) for key, value in converted.items() if key.endswith(".weight")}
    elsewhere = tuple(ELSEWHERE[name])
    for found in (got, wanted):
        for key in [key for key in found if key.startswith(elsewhere)]:
            del found[key]
    assert got == wanted


def norms_of(name: str) -> frozenset[str]:
    """Paths of the norms with weights of a tiny model."""
    found: set[str] = set()
    for make in MODELS[name]:
        with torch.device("meta"):
            model = make()
        names = {path.removesuffix(".weight") for path, _ in model.named_parameters()}
        found |= {re.sub(r"\d+", "0", path) for path in names - modules_of(name)}
    return frozenset(found)


@pytest.mark.parametrize("name", [name for name in MODELS if BY_NAME[name].norms])
def test_a_model_has_every_norm_of_its_table(name: str) -> None:
    there = norms_of(name)
    for row in BY_NAME[name].norms:
        [path] = row.diffusers
        assert re.sub(r"\d+", "0", path.replace("#", "0")) in there, path


class Whole(dict[str, Tensor]):
    """A checkpoint that has whatever a converter asks for."""

    def __missing__(self, key: str) -> Tensor:
        return torch.zeros(8, 8)

    def pop(self, key: str, *default: Any) -> Any:
        height = 7 * 3072 if "linear1" in key else 24 if "qkv" in key else 16
        return super().pop(key, torch.zeros(height, 1))


# Of each: what diffusers makes of a whole model of the authors', and what its names begin with.
WHOLE: Mapping[str, tuple[Any, str]] = {
    "Wan": (OF_UNET.convert_wan_transformer_to_diffusers, "model.diffusion_model."),
    "Lumina 2": (OF_UNET.convert_lumina2_to_diffusers, ""),
    "Z-Image": (OF_UNET.convert_z_image_transformer_checkpoint_to_diffusers, ""),
    "LTX": (OF_UNET.convert_ltx2_transformer_to_diffusers, ""),
    "Stable Diffusion 3": (OF_UNET.convert_sd3_transformer_checkpoint_to_diffusers, ""),
    "Flux.1, Chroma or HunyuanVideo": (
        *(OF_UNET.convert_flux_transformer_checkpoint_to_diffusers, ""),
    ),
    "HunyuanVideo": (OF_UNET.convert_hunyuan_video_transformer_to_diffusers, ""),
    "Anima": (OF_UNET.convert_cosmos_transformer_checkpoint_to_diffusers, "net."),
}


@pytest.mark.parametrize("name", WHOLE)
def test_each_norm_is_what_diffusers_makes_of_it(name: str) -> None:
    convert, prefix = WHOLE[name]
    table = BY_NAME.get(name) or BY_NAME["Flux.1, Chroma or HunyuanVideo"]
    scales = {row.original for row in table.norms if row.original.endswith(".scale")}
    state: dict[str, Tensor] = Whole() if name[:6] in ("Stable", "Flux.1") else {}
    wanted: dict[str, float] = {}
    for number, row in enumerate(table.norms, 1):
        path = row.original.replace("#", "0")
        if scales and (row.original in scales) == (name == "HunyuanVideo"):
            continue
        state[f"{prefix}{path}" if path.endswith(".scale") else f"{prefix}{path}.weight"] = (
            torch.tensor([float(number)])
        )
        wanted[f"{row.diffusers[0].replace('#', '0')}.weight"] = float(number)
    if name == "Stable Diffusion 3":  # whose converter asks for the fused projection of each block
        state["joint_blocks.0.x_block.attn.qkv.weight"] = torch.zeros(24, 8)
        state["joint_blocks.1.x_block.attn.qkv.weight"] = torch.zeros(24, 8)
    got = {key: float(t) for key, t in convert(state).items() if t.shape == (1,)}
    assert got == wanted


@pytest.mark.parametrize("name", ["SDXL", "Stable Diffusion 1 or 2"])
def test_each_norm_of_a_unet_is_what_diffusers_makes_of_it(name: str) -> None:
    rows = [*BY_NAME[name].rows, *BY_NAME[name].norms]
    model = {
        f"model.diffusion_model.{row.original.replace('#', '0')}.{end}": torch.tensor([number])
        for number, row in enumerate(rows)
        for end in ("weight", "bias")
    }
    made: Any = MODELS[name][0]()
    converted = OF_UNET.convert_ldm_unet_checkpoint(model, dict(made.config))
    for row in BY_NAME[name].norms:
        key = f"{row.diffusers[0].replace('#', '0')}.weight"
        assert int(converted[key]) == rows.index(row), key
