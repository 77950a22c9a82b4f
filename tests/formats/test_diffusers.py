"""diffusers' files, old and new: one site under every spelling of it, alpha wherever it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lego_ray.errors import AdapterRefused, MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.diffusers_keys import parse_factor
from lego_ray.formats.diffusers_writer import encode
from lego_ray.formats.merged import MergedSite
from tests.formats.lone import matrices, read, updates
from tests.image_zoo import BLOCK, factors, write_diffusers

# The same float64 products, of float32 factors that are exact.
EXACT = 1e-14
TO_Q = f"unet.{BLOCK}.attn1.to_q"
CONV = "unet.down_blocks.0.resnets.0.conv1"
FC1 = "text_encoder.text_model.encoder.layers.1.mlp.fc1"


def held(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert got.keys() == wanted.keys()
    for site, update in wanted.items():
        np.testing.assert_allclose(got[site], update, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("style", ["new", "flat", "older", "oldest", "bare"])
def test_every_style_names_the_same_sites_with_alpha_the_rank(
    style: str, dtype: str, tmp_path: Path
) -> None:
    wanted = write_diffusers(tmp_path / "a.safetensors", style=style, dtype=dtype)
    record = read(tmp_path / "a.safetensors")
    held(updates(tmp_path / "a.safetensors", record), wanted)
    assert (record.format, record.dtype) == ("diffusers", dtype)
    assert all(site in factors(0, 4) for site in wanted)
    assert record.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("key", "site"),
    [
        ("text_encoder.x.to_q_lora.up.weight", "text_encoder.x.q_proj"),
        ("text_encoder.a.to_out_lora.down.weight", "text_encoder.a.out_proj"),
        ("mid_block.attn1.processor.add_k_proj_lora.up.weight", "unet.mid_block.attn1.add_k_proj"),
        ("text_encoder_2.text_projection.lora.down.weight", "text_encoder_2.text_projection"),
        (
            "text_encoder_2.encoder.layers.3.self_attn.v_proj.lora_A.weight",
            "text_encoder_2.text_model.encoder.layers.3.self_attn.v_proj",
        ),
        (
            "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight",
            "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q",
        ),
        ("transformer.a.lora_A.weight", "transformer.a"),
        ("a.lora_A.weight", None),
        ("unet.a.lora_A.default.weight", "unet.a"),
        ("unet.a.weight", None),
    ],
)
def test_keys(key: str, site: str | None) -> None:
    found = parse_factor(key)
    assert (found and found.site) == site


def settings(component: str, **fields: object) -> dict[str, str]:
    """A header with PEFT's configuration of one component."""
    every = {"r": 4, "lora_alpha": 8, "peft_type": "LORA", "target_modules": ["x"], **fields}
    text = json.dumps({f"{component}.{name}": value for name, value in every.items()})
    return {"format": "pt", "lora_adapter_metadata": text}


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({}, {None: 2}),
        ({"use_rslora": True}, {None: 4}),
        (
            {"alpha_pattern": {"attn1.to_q": 1, "resnets.0.conv1": 3}},
            {None: 2, TO_Q: 0.25, CONV: 0.75},
        ),
        ({"r": 5, "rank_pattern": {".*": 4}}, {None: 2}),
    ],
    ids=str,
)
def test_alpha_is_what_the_header_says_of_the_component(
    fields: dict[str, Any], scaling: dict[str | None, float], tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    plain = write_diffusers(file, metadata=settings("unet", **fields))
    record = read(file)
    for site, (_, _, found) in matrices(file, record).items():
        of_unet = site.startswith("unet.")
        assert found == (scaling.get(site, scaling[None]) if of_unet else 1)
    assert {s.site for s in record.sites} == plain.keys()


def test_alpha_may_be_a_tensor(tmp_path: Path) -> None:
    more = {f"unet.{BLOCK}.attn1.processor.to_q.alpha": torch.tensor(2.0)}
    write_diffusers(tmp_path / "a.safetensors", more=more)
    found = matrices(tmp_path / "a.safetensors", read(tmp_path / "a.safetensors"))
    assert {site: s for site, (_, _, s) in found.items() if s != 1} == {TO_Q: 0.5}


@pytest.mark.parametrize(
    ("metadata", "more", "error", "message"),
    [
        (settings("unet", use_dora=True), {}, UnsupportedAdapter, "DoRA"),
        (settings("unet", init_lora_weights="pissa"), {}, UnsupportedAdapter, "pissa"),
        (settings("unet", r=3), {}, RankMismatch, "rank 3, its tensor has rank 4"),
        (settings("unet"), {f"{TO_Q}.alpha": torch.ones(())}, MalformedAdapter, "an alpha of 8"),
        ({"lora_adapter_metadata": "{"}, {}, MalformedAdapter, "not valid JSON"),
        ({"lora_adapter_metadata": '{"r": 4}'}, {}, MalformedAdapter, "names no component"),
        ({}, {"unet.gone.alpha": torch.ones(())}, MalformedAdapter, "of no site"),
        ({}, {"unet.x.lora_magnitude_vector": torch.ones(8)}, UnsupportedAdapter, "DoRA"),
        ({}, {"unet.x.lora_B.bias": torch.ones(8)}, UnsupportedAdapter, "bias beside"),
        ({}, {"x.lora_A.weight": torch.ones(4, 8)}, UnsupportedAdapter, "not part of a LoRA"),
        (
            {},
            {f"unet.{BLOCK}.attn1.processor.to_q_lora.up.weight": torch.ones(8, 4)},
            MalformedAdapter,
            "two factors B",
        ),
        ({}, {"transformer.x.lokr_w1": torch.ones(4, 4)}, MalformedAdapter, "LoKr and lacks"),
        ({}, {"transformer.x.b_norm": torch.ones(4)}, UnsupportedAdapter, "a norm"),
    ],
)
def test_what_cannot_be_merged_is_named(
    metadata: dict[str, str],
    more: dict[str, torch.Tensor],
    error: type[AdapterRefused],
    message: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.safetensors"
    write_diffusers(file, metadata=metadata, more=more)
    with pytest.raises(error, match=message) as caught:
        updates(file, read(file))
    assert str(file) in caught.value.where


@pytest.mark.parametrize(
    ("metadata", "card", "wanted"),
    [
        (settings("unet", base_model_name_or_path="org/a"), "org/b", "org/b"),
        (settings("unet", base_model_name_or_path="org/a"), "", "org/a"),
        ({"ss_base_model_version": "flux1"}, "", "flux1"),
        ({}, "", ""),
    ],
)
def test_the_base_model_is_the_cards_or_else_the_headers(
    metadata: dict[str, str], card: str, wanted: str, tmp_path: Path
) -> None:
    write_diffusers(tmp_path / "a.safetensors", metadata=metadata)
    assert read(tmp_path / "a.safetensors", base_model=card).base_model == wanted


def merged(rank: int, dtype: torch.dtype = torch.float32) -> list[MergedSite]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return [
        MergedSite(TO_Q, "linear", draw(rank, 8), draw(8, rank)),
        MergedSite(CONV, "conv", draw(rank - 1, 72), draw(8, rank - 1), (8, 3, 3), 4),
        MergedSite(FC1, "linear", draw(rank - 2, 12), draw(20, rank - 2)),
    ]


def written(file: Path, sites: list[MergedSite], **options: Any) -> Path:
    options = {"rank": 4, "dtype": "F32", "base_model": "org/base", **options}
    file.write_bytes(encode(sites, **options))
    return file


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("compact", [False, True])
def test_what_is_written_is_read_back_to_the_bit(compact: bool, dtype: str, tmp_path: Path) -> None:
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    sites = merged(4, kind)
    file = written(tmp_path / "a.safetensors", sites, dtype=dtype, compact=compact)
    record = read(file)
    assert (record.dtype, record.base_model) == (dtype, "org/base")
    assert record.ranks == ((2, 4, 3) if compact else (4, 4, 4))
    found = matrices(file, record)
    for site in sites:
        a, b, scaling = found[site.site]
        k = len(site.a)
        assert scaling == 1
        assert torch.equal(a[:k].to(kind), site.a)
        assert torch.equal(b[:, :k].to(kind), site.b)
        assert not a[k:].any()
        assert not b[:, k:].any()
    stored = load_file(file)
    assert stored[f"{CONV}.lora_A.weight"].shape[1:] == (8, 3, 3)
    tails = {"conv": (8, 3, 3), "linear": ()}
    again = [
        MergedSite(s.site, s.kind, *found[s.site][:2], tails[s.kind], len(s.b.shape))
        for s in record.sites
    ]
    copy = written(tmp_path / "b.safetensors", again[::-1], dtype=dtype, compact=compact)
    assert copy.read_bytes() == file.read_bytes()


def test_the_header_has_each_components_settings_and_no_more(tmp_path: Path) -> None:
    with safe_open(written(tmp_path / "a", merged(4), compact=True), "pt") as opened:
        metadata = opened.metadata()
    assert metadata.pop("format") == "pt"
    assert json.loads(metadata.pop("lora_adapter_metadata")) == {
        "unet.r": 4,
        "unet.lora_alpha": 4,
        "unet.rank_pattern": {"down_blocks.0.resnets.0.conv1": 3},
        "unet.alpha_pattern": {"down_blocks.0.resnets.0.conv1": 3},
        "unet.target_modules": [TO_Q.removeprefix("unet."), "down_blocks.0.resnets.0.conv1"],
        "unet.base_model_name_or_path": "org/base",
        "text_encoder.r": 4,
        "text_encoder.lora_alpha": 4,
        "text_encoder.rank_pattern": {"encoder.layers.1.mlp.fc1": 2},
        "text_encoder.alpha_pattern": {"encoder.layers.1.mlp.fc1": 2},
        "text_encoder.target_modules": ["encoder.layers.1.mlp.fc1"],
        "text_encoder.base_model_name_or_path": "org/base",
    }
    assert metadata == {}
