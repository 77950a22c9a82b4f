"""LoRAs of two transformers with the same modules are told by their names, and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import lego_ray
from lego_ray.errors import LayoutMismatch
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.noise_halves import noise_warnings
from tests.lone_zoo import tensors_of, write
from tests.planning.records import adapter

WAN = ("diffusion_model.blocks.0.self_attn.q", "lora_unet_blocks_0_cross_attn_k")
OTHER = "lora_unet_input_blocks_4_1_proj_in"


def zoo(*names: str, site: str = WAN[0]) -> list[AdapterRecord]:
    made = adapter("x")
    sites = (replace(made.sites[0], site=site),)
    return [replace(made, uri=f"/zoo/{name}.safetensors", sites=sites) for name in names]


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("concept_HIGH", "concept_LOW"),
        ("concept_high", "concept_low"),
        ("x_high_noise", "x_low_noise"),
        ("x_000000250_high_noise", "x_000000250_low_noise"),
        ("Wan22-HighNoise-x", "Wan22-LowNoise-x"),
        ("x-HN", "x-LN"),
        ("conceptHigh", "conceptLow"),
        ("NSFW-22-H-e8", "NSFW-22-L-e8"),
        ("high/concept", "low/concept"),
        ("high_noise_model/adapter_model", "low_noise_model/adapter_model"),
        ("x/transformer/pytorch_lora_weights", "x/transformer_2/pytorch_lora_weights"),
        ("transformer/concept", "transformer_2/concept"),
    ],
)
@pytest.mark.parametrize("site", WAN)
def test_two_halves_of_one_are_told(high: str, low: str, site: str) -> None:
    [warning] = noise_warnings(zoo(high, low, "third", site=site))
    assert f"/zoo/{high}.safetensors is named as a LoRA for high noise" in warning
    assert f"/zoo/{low}.safetensors" in warning
    assert "two halves of one LoRA" in warning
    assert "Merge each half apart, with --exclude" in warning


def test_halves_of_different_ones_are_told_too() -> None:
    [warning] = noise_warnings(zoo("a_high_noise", "b_low_noise"))
    assert "two halves of one LoRA" not in warning
    assert "fits neither" in warning


def test_folders_called_as_the_transformers_are_only_told_as_a_pair() -> None:
    assert not list(
        noise_warnings(zoo("x/transformer/adapter_model", "y/transformer/adapter_model"))
    )
    first, second = zoo("x/transformer/adapter_model", "x/transformer_2/adapter_model")
    kept = (replace(second.sites[0], site=f"transformer_2.{second.sites[0].site}"),)
    assert not list(noise_warnings([first, replace(second, sites=kept)]))


def test_one_half_among_others_is_said() -> None:
    [warning] = noise_warnings(zoo("a_high_noise", "b_high_noise", "c"))
    assert "for high noise alone" in warning
    assert "1 of the adapters do" in warning
    assert not list(noise_warnings(zoo("a_high_noise", "b_high_noise")))


@pytest.mark.parametrize(
    ("names", "site"),
    [
        (("high_detail", "low_detail"), OTHER),
        (("poly_high", "poly_low"), OTHER),
        (("highlight", "slow"), WAN[0]),
        (("below", "shn", "glow", "H-style"), WAN[0]),
        (("low_noise_photo", "style"), OTHER),
    ],
)
def test_words_of_other_meaning_say_nothing(names: tuple[str, ...], site: str) -> None:
    assert not list(noise_warnings(zoo(*names, site=site)))


def test_a_file_of_one_transformer_beside_one_of_two_is_said() -> None:
    """It is merged into the first, as all names without a number are."""
    first, second = (f"{name}.blocks.0.attn1.to_q" for name in ("transformer", "transformer_2"))
    [both, own] = (replace(a, format="diffusers") for a in zoo("both", "own", site=first))
    both = replace(both, sites=(both.sites[0], replace(both.sites[0], site=second)))
    [unnamed] = (replace(a, format="comfyui") for a in zoo("unnamed", site=first))
    [warning] = noise_warnings([both, own, unnamed])
    assert warning.startswith("/zoo/unnamed.safetensors is of a transformer that the file does not")
    assert "--exclude" in warning
    assert not list(noise_warnings([both, own]))
    assert not list(noise_warnings([own, unnamed]))


def test_a_half_beside_a_file_of_two_transformers_is_said_when_it_is_planned(
    tmp_path: Path,
) -> None:
    names = [f"{n}.blocks.0.attn1.to_q" for n in ("transformer", "transformer_2")]
    write(tmp_path / "both.safetensors", tensors_of(names))
    write(tmp_path / "x_low.safetensors", tensors_of(["diffusion_model.blocks.0.self_attn.q"]))
    plan = lego_ray.plan(tmp_path, rank=4, method="concat", base_model="Wan-AI/Wan2.2-T2V-A14B")
    assert [w for w in plan.warnings if "x_low.safetensors is of a transformer that" in w]
    for layout in ("peft", "kohya", "comfyui"):
        with pytest.raises(
            LayoutMismatch, match=r"transformer_2.* is of a second denoiser"
        ) as caught:
            lego_ray.plan(tmp_path, rank=4, layout=layout, base_model="Wan-AI/Wan2.2-T2V-A14B")
        assert "Ask for --layout diffusers" in caught.value.hint
    asked = lego_ray.plan(
        tmp_path, rank=4, layout="diffusers", base_model="Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    )
    assert sorted(site.site for task in asked.tasks for site in task.sites) == names
