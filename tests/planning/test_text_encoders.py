"""Which text encoder a name is of: what is joined, what stays apart, and what is refused."""

from __future__ import annotations

import pytest

from lego_ray.errors import LayoutMismatch, MalformedAdapter
from lego_ray.formats.architectures.twice import check_named_once
from lego_ray.planning.naming import agreed_names, named_as
from tests.planning.test_naming import of

LAYER = "layers.0.self_attn.q_proj"
FLAT = LAYER.replace(".", "_")
CLIP = f"text_model.encoder.{LAYER}"
FLAT_CLIP = f"text_model_encoder_{FLAT}"
T5 = "encoder.block.0.layer.0.SelfAttention.q"
FLAT_T5 = T5.replace(".", "_")


def names(*files: tuple[str, ...], base_model: str = "", asked: str = "sources") -> list[list[str]]:
    """The sites of each file of a zoo, as a merge calls them."""
    zoo = [
        of(str(n), *sites, layout="comfyui" if any("." in s for s in sites) else "kohya")
        for n, sites in enumerate(files)
    ]
    named = agreed_names(zoo, "comfyui", asked, base_model)
    return [sorted(factors.site for factors in adapter.sites) for adapter in named]


def joined(one: str, two: str, *, base_model: str = "", beside: tuple[str, ...] = ()) -> bool:
    """Whether two names are one module of a merge."""
    first, second = names((one, *beside), (two,), base_model=base_model)
    return second[0] in first


HUNYUAN = "hunyuanvideo-community/HunyuanVideo"


@pytest.mark.parametrize(
    ("numbered", "label", "base_model"),
    [
        (f"lora_te_{FLAT}", f"qwen3_06b.transformer.model.{LAYER}", ""),
        (f"lora_te_model_{FLAT}", f"qwen25_7b.transformer.model.{LAYER}", ""),
        (f"lora_te_model_language_model_{FLAT}", f"qwen25_7b.transformer.model.{LAYER}", ""),
        (f"lora_te1_model_{FLAT}", f"llama.transformer.model.{LAYER}", ""),
        (f"text_encoder_4.model.{LAYER}", f"llama.transformer.model.{LAYER}", "HiDream-I1"),
        (f"text_encoder.{LAYER}", f"qwen3_4b.transformer.model.{LAYER}", "Tongyi-MAI/Z-Image"),
        (f"lora_te_{FLAT_CLIP}", f"clip_h.transformer.{CLIP}", "stabilityai/stable-diffusion-2"),
        (f"lora_te1_{FLAT_CLIP}", f"clip_l.transformer.{CLIP}", ""),
        (f"lora_te2_{FLAT_CLIP}", f"clip_g.transformer.{CLIP}", ""),
        (f"lora_te2_{FLAT_CLIP}", f"clip_l.transformer.{CLIP}", HUNYUAN),
        (f"text_encoder_2.{CLIP}", f"clip_l.transformer.{CLIP}", "kandinskylab/Kandinsky-5.0-T2V"),
        (f"lora_te1_{FLAT_T5}", f"t5xxl.transformer.{T5}", "lodestones/Chroma1-HD"),
        (f"lora_te_{FLAT_T5}", f"umt5xxl.transformer.{T5}", "Wan-AI/Wan2.1"),
    ],
)
def test_names_of_one_encoder_are_one(numbered: str, label: str, base_model: str) -> None:
    assert joined(numbered, f"text_encoders.{label}", base_model=base_model)


@pytest.mark.parametrize(
    ("numbered", "base_model"),
    [
        (f"lora_te1_{FLAT_CLIP}", HUNYUAN),
        (f"lora_te2_{FLAT_CLIP}", ""),
    ],
)
def test_clip_l_whose_number_cannot_be_told_is_refused(numbered: str, base_model: str) -> None:
    """The first says one number and its base model another; the second says nothing."""
    named = f"text_encoders.clip_l.transformer.{CLIP}"
    with pytest.raises(LayoutMismatch) as caught:
        joined(numbered, named, base_model=base_model)
    assert numbered in str(caught.value)
    assert named in str(caught.value)


def test_what_trained_beside_clip_shows_its_number() -> None:
    named = f"text_encoders.clip_l.transformer.{CLIP}"
    llama, block = f"lora_te1_model_{FLAT}", "lora_unet_double_blocks_0_img_attn_proj"
    second = f"lora_te2_{FLAT_CLIP}"
    assert joined(second, named, beside=(llama,))
    assert joined(second, named, beside=(block,))
    # FLUX.1's and HunyuanVideo's where dots are underscores, and HunyuanVideo's alone with dots
    either, theirs = (
        "lora_unet_double_blocks_0_img_attn_qkv",
        "transformer.double_blocks.0.img_attn_qkv",
    )
    assert joined(f"lora_te1_{FLAT_CLIP}", named, beside=(either,))
    assert not joined(f"lora_te1_{FLAT}", named, beside=(theirs,))
    for unet in ("lora_unet_down_blocks_0_x", "lora_unet_joint_blocks_0_x"):
        assert not joined(second, named, beside=(unet,))
    assert not joined(second, named, base_model="stabilityai/stable-diffusion-xl-base-1.0")


def test_files_of_flux_2_have_one_name_for_a_block_in_two_ways() -> None:
    damaged, whole = (f"diffusion_model.{n}sformer_blocks.0.attn.to_q" for n in ("", "tran"))
    assert names((damaged,), (whole,)) in ([[damaged], [damaged]], [[whole], [whole]])
    fused = "diffusion_model.double_blocks.0.img_attn.proj"
    one, two = names((damaged.replace("to_q", "to_out.0"),), (fused,))
    assert one == two


def test_encoders_of_two_sizes_stay_apart() -> None:
    small, large = (
        f"text_encoders.{n}.transformer.model.{LAYER}" for n in ("qwen3_4b", "qwen3_8b")
    )
    assert names((small,), (large,)) == [[small], [large]]
    with pytest.raises(LayoutMismatch, match="may be of one text encoder or of two"):
        names((small,), (large,), (f"lora_te_{FLAT}",))
    first, fourth = f"lora_te1_model_{FLAT}", f"lora_te4_model_{FLAT}"
    assert names((first,), (fourth,)) == [[first], [fourth]]


def test_a_module_only_one_file_has_is_written_as_the_others_are() -> None:
    """Of a language model some trainers leave out what stands before its layers."""
    other = LAYER.replace("0", "1")
    one, two = names(
        ("lora_unet_blocks_0_x", f"lora_te_{FLAT}"),
        ("diffusion_model.blocks.0.x", f"text_encoders.qwen3_06b.transformer.model.{LAYER}",
         f"text_encoders.qwen3_06b.transformer.model.{other}"),
    )  # fmt: skip
    assert one == [f"lora_te_{FLAT}", "lora_unet_blocks_0_x"]
    assert two == [f"lora_te_{FLAT}", f"lora_te_{other.replace('.', '_')}", "lora_unet_blocks_0_x"]


def test_a_layout_that_is_asked_for_has_the_names_of_the_model() -> None:
    block = "diffusion_model.double_blocks.0.img_attn.proj"
    named = f"text_encoders.clip_l.transformer.{CLIP}"
    for base_model, number in (("FLUX.1-dev", 1), (HUNYUAN, 2)):
        [mine] = names((block, named), base_model=base_model, asked="kohya")
        assert f"lora_te{number}_{FLAT_CLIP}" in mine
        flat = (block.replace("diffusion_model.", "lora_unet_").replace(".", "_"),)
        [mine] = names(
            (*flat, f"lora_te{number}_{FLAT_CLIP}"), base_model=base_model, asked="comfyui"
        )
        assert named in mine


def test_an_update_finds_the_encoder_of_the_merge() -> None:
    known = {f"lora_te1_model_{FLAT}": (8, 8), f"lora_te2_{FLAT_CLIP}": (8, 8)}
    mine = of("a", f"text_encoders.clip_l.transformer.{CLIP}",
              f"text_encoders.llama.transformer.model.{LAYER}", layout="comfyui")  # fmt: skip
    [named] = named_as([mine], known, "kohya")
    assert [factors.site for factors in named.sites] == sorted(known)


def test_a_file_may_have_two_encoders_whose_layers_are_alike() -> None:
    check_named_once(
        [f"text_encoders.{name}.transformer.model.{LAYER}" for name in ("llama", "qwen3_4b")], "f"
    )
    with pytest.raises(MalformedAdapter, match="in two spellings"):
        check_named_once([f"lora_te_model_{FLAT}", f"lora_te_{FLAT}"], "f")
