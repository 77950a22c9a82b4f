"""Names that two models have, told by widths; and modules that are of another part of a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers.loaders import lora_pipeline as loaders

import lego_ray
from lego_ray.errors import LayoutMismatch
from tests.lone_zoo import load, tensors_of, through, total, updates_of, write
from tests.merging.test_two_namings import (
    ANIMA,
    ANIMA_TEXT,
    ANIMA_TEXT_THERE,
    ANIMA_THERE,
    IDEOGRAM_THERE,
    WIDE,
    H,
    dotted,
    flat,
    merge,
    names,
)
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

SHARED = ("to_q", "to_k", "to_v", "to_out.0")


def shared(width: int) -> dict[str, tuple[int, int]]:
    """Diffusers' names that Z-Image and Ideogram 4 both have."""
    return {f"transformer.layers.0.attention.{name}": (width, H) for name in SHARED}


@pytest.mark.parametrize(
    ("width", "base", "model", "out"),
    [
        (WIDE, "base", "Ideogram 4", "o"),
        (3840, "base", "Z-Image", "out"),
        (H, "base", "Z-Image", "out"),
        (WIDE, "Tongyi-MAI/Z-Image", "Ideogram 4", "out"),
        (WIDE, "ideogram-ai/ideogram-4", "Ideogram 4", "o"),
    ],
)
def test_ideogram_4_is_told_from_z_image_by_its_width_or_the_base_model(
    width: int, base: str, model: str, out: str, tmp_path: Path
) -> None:
    part = tensors_of(shared(width))
    file = write(tmp_path / "zoo/a.safetensors", part)
    [found] = lego_ray.inspect(file).found
    assert found.architecture == model
    merge(tmp_path / "zoo", tmp_path / "m", layout="comfyui", base_model=base)
    begin = "diffusion_model.layers.0.attention"
    assert names(tmp_path / "m") == {f"{begin}.qkv", f"{begin}.{out}"}
    if out == "o":
        got = through(loaders.Ideogram4LoraLoaderMixin, load(tmp_path / "m"))
        assert relative_error(got, updates_of(part)) < F32_ROUNDING


def test_other_modules_of_ideogram_4_keep_their_names(tmp_path: Path) -> None:
    modules = dotted("transformer.", {**IDEOGRAM_THERE, "llm_cond_proj": (H, H)})
    write(tmp_path / "zoo/a.safetensors", tensors_of(modules))
    merge(tmp_path / "zoo", tmp_path / "m", layout="comfyui")
    assert "diffusion_model.llm_cond_proj" in names(tmp_path / "m")


@pytest.mark.parametrize("layout", ["sources", "diffusers", "comfyui", "kohya"])
def test_the_text_conditioner_of_anima_has_names_in_each_layout(
    layout: str, tmp_path: Path
) -> None:
    here = tensors_of(
        flat("lora_unet_", {**ANIMA, **ANIMA_TEXT}), ends="down_up", alpha=1.0, seed=1
    )
    plain = tensors_of(dotted("diffusion_model.", {**ANIMA, **ANIMA_TEXT}), seed=1)
    there = tensors_of({**dotted("transformer.", ANIMA_THERE), **ANIMA_TEXT_THERE}, seed=2)
    for number, part in enumerate((here, there)):
        write(tmp_path / f"zoo/{number}.safetensors", part)
    merge(tmp_path / "zoo", tmp_path / "m", layout=layout)
    got = load(tmp_path / "m")
    begins = {key.partition("text_conditioner")[0] for key in got if "text_conditioner" in key}
    assert begins == ({""} if layout == "diffusers" else set())
    loader = loaders.AnimaLoraLoaderMixin
    halved = {name: update / 2 for name, update in through(loader, plain).items()}
    wanted = total(halved, through(loader, there))
    if layout in ("sources", "kohya"):  # whose names diffusers has no converter for
        assert any(key.startswith("lora_unet_llm_adapter_blocks_0_") for key in got)
        merge(tmp_path / "m", tmp_path / "n", layout="diffusers", base_model="Anima")
        got = load(tmp_path / "n")
    assert relative_error(through(loader, got), wanted) < F32_ROUNDING


def test_the_text_conditioner_of_anima_is_refused_for_a_layout_of_one_transformer(
    tmp_path: Path,
) -> None:
    modules = {**dotted("transformer.", ANIMA_THERE), **ANIMA_TEXT_THERE}
    write(tmp_path / "zoo/a.safetensors", tensors_of(modules))
    with pytest.raises(LayoutMismatch, match=r"text_conditioner.* Leave out --layout"):
        merge(tmp_path / "zoo", tmp_path / "m", layout="peft")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("prefix", ["transformer.", "", "diffusion_model."])
def test_of_two_spellings_onetrainers_is_not_the_one_that_stays(
    prefix: str, tmp_path: Path
) -> None:
    """Diffusers reads it of Flux alone, and of that in part."""
    modules = {f"transformer_blocks.0.attn.{name}": (H, H) for name in ("to_q", "add_k_proj")}
    modules["transformer_blocks.0.img_mod.1"] = (H, 6 * H)
    write(tmp_path / "zoo/a.safetensors", tensors_of(dotted(prefix, modules)))
    there = tensors_of(flat("lora_transformer_", modules), ends="down_up", alpha=1.0, seed=1)
    write(tmp_path / "zoo/b.safetensors", there)
    merge(tmp_path / "zoo", tmp_path / "m")
    assert not any(name.startswith("lora_transformer_") for name in names(tmp_path / "m"))


@pytest.mark.parametrize("layout", ["peft", "diffusers", "comfyui"])
def test_a_note_of_a_name_tells_the_one_in_the_merge(layout: str, tmp_path: Path) -> None:
    modules = {f"transformer_blocks.0.attn.{name}": (H, H) for name in ("to_q", "add_k_proj")}
    modules["transformer_blocks.0.img_mod.1"] = (H, 6 * H)
    write(tmp_path / "zoo/a.safetensors", tensors_of(modules))
    there = tensors_of(flat("lora_transformer_", modules), ends="down_up", alpha=1.0, seed=1)
    write(tmp_path / "zoo/b.safetensors", there)
    record = merge(tmp_path / "zoo", tmp_path / "m", layout=layout)
    spelled = [each for each in record["warnings"] if "spelled otherwise" in each]
    assert spelled
    for each in spelled:
        said = each.partition(", which is ")[2].partition(" there")[0]
        assert said in {name.removeprefix("base_model.model.") for name in names(tmp_path / "m")}
