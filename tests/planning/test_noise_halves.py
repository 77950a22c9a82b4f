"""LoRAs of two transformers with the same modules are told by their names, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.noise_halves import noise_warnings
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
