"""mlx-lm's adapters: transposed factors, one scale, refused by name where they are more than that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lego_ray.errors import AdapterRefused, MalformedAdapter, RankMismatch, UnsupportedAdapter
from tests.formats.lone import read, updates

EXACT = 1e-14
Q = "model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "fine_tune_type": "lora",
    "model": "org/base",
    "num_layers": 16,
    "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0},
}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"{Q}.lora_a": torch.randn(12, 4, generator=generator),
        f"{Q}.lora_b": torch.randn(4, 10, generator=generator),
        "model.embed_tokens.lora_a": torch.randn(20, 4, generator=generator),
        "model.embed_tokens.lora_b": torch.randn(4, 6, generator=generator),
    }


def config(**fields: object) -> bytes:
    return json.dumps({**CONFIG, **fields}).encode()


def write(path: Path, more: dict[str, torch.Tensor] | None = None) -> Path:
    save_file({**tensors(), **(more or {})}, path / "adapters.safetensors")
    return path / "adapters.safetensors"


@pytest.mark.parametrize("scale", [20.0, 0.5, 1])
def test_the_update_is_scale_times_the_transposed_product(scale: float, tmp_path: Path) -> None:
    file = write(tmp_path)
    record = read(file, config=config(lora_parameters={"rank": 8, "scale": scale}))
    got, raw = updates(file, record), {k: t.double().numpy() for k, t in tensors().items()}
    assert len(got) == 2
    for site, update in got.items():
        wanted = scale * raw[f"{site}.lora_b"].T @ raw[f"{site}.lora_a"].T
        np.testing.assert_allclose(update, wanted, rtol=EXACT, atol=EXACT)


def test_the_record_is_in_the_terms_of_the_others(tmp_path: Path) -> None:
    record = read(write(tmp_path), config=config())
    assert (record.format, record.base_model, record.folder) == ("mlx", "org/base", str(tmp_path))
    embedding, linear = record.sites
    assert (embedding.kind, embedding.d_in, embedding.d_out, embedding.rank) == (
        "embedding",
        20,
        6,
        4,
    )
    assert (linear.kind, linear.d_in, linear.d_out, linear.a_tail) == ("linear", 12, 10, (12,))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"fine_tune_type": "dora"}, UnsupportedAdapter, "DoRA"),
        ({"fine_tune_type": "full"}, UnsupportedAdapter, "fine_tune_type is full"),
        ({"lora_parameters": {"rank": 4}}, MalformedAdapter, "scale: missing"),
        (
            {"lora_parameters": {"scale": 0}},
            MalformedAdapter,
            "scale: 0; expected a number other",
        ),
        ({"lora_parameters": {"scale": "20"}}, MalformedAdapter, "scale: '20'; expected a number"),
        ({"lora_parameters": None}, MalformedAdapter, "lora_parameters: None; expected"),
        (
            {"lora_parameters": {"scale": 10**400}},
            MalformedAdapter,
            "scale: 10{79}[.]{3}; expected a number",
        ),
    ],
)
def test_configurations_that_give_no_scale_are_named(
    fields: dict[str, object], error: type[AdapterRefused], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        read(write(tmp_path), config=config(**fields))
    assert caught.value.where == f"{tmp_path}/adapter_config.json"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({f"{Q}.m": torch.ones(10)}, UnsupportedAdapter, "DoRA"),
        ({f"{Q}.lora_b": torch.ones(5, 10)}, RankMismatch, "rank 4 in A"),
        ({"x.lora_a": torch.ones(12, 4)}, MalformedAdapter, "no pair"),
        ({f"{Q}.lora_a_scales": torch.ones(4, 4)}, UnsupportedAdapter, "not part of a LoRA"),
        (
            {"x.lora_a": torch.ones(8, 4, 12), "x.lora_b": torch.ones(8, 10, 4)},
            UnsupportedAdapter,
            "packs 8 experts",
        ),
        (
            {"x.lora_a": torch.ones(8 * 4, 12), "x.lora_b": torch.ones(8, 10, 4)},
            UnsupportedAdapter,
            "packs 8 experts",
        ),
        (
            {"base_model.model.x.lora_A.weight": torch.ones(4, 4)},
            UnsupportedAdapter,
            "in peft's layout",
        ),
    ],
)
def test_files_that_cannot_be_merged_are_named(
    more: dict[str, torch.Tensor], error: type[AdapterRefused], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        read(write(tmp_path, more), config=config())
    assert caught.value.where == f"{tmp_path}/adapters.safetensors"


def test_alpha_beside_scale_counts_where_the_release_may_have_used_it(tmp_path: Path) -> None:
    """mlx-lm until June 2024, whose defaults of alpha 16 and scale 10 are scale 20 at rank 8."""
    file = write(tmp_path)
    before = {**CONFIG, "lora_layers": 16, "lora_parameters": OF_2024}
    record = read(file, config=json.dumps(before).encode())
    now = read(file, config=config(lora_parameters={"rank": 8, "scale": 20.0}))
    got, wanted = updates(file, record), updates(file, now)
    assert all(np.array_equal(got[site], wanted[site]) for site in wanted)
    assert "cannot be told" in record.notes[0]
    assert now.notes == ()


OF_2024 = {"rank": 8, "scale": 10.0, "alpha": 16}


@pytest.mark.parametrize("field", ["fine_tune_type", "num_layers"])
def test_an_alpha_that_the_release_did_not_use_is_left_out_with_a_note(
    field: str, tmp_path: Path
) -> None:
    """mlx-lm of September 2024 to April 2025 wrote its default alpha and never read it."""
    file = write(tmp_path)
    fields = {"model": "org/base", field: CONFIG[field], "lora_parameters": OF_2024}
    record = read(file, config=json.dumps(fields).encode())
    now = read(file, config=config(lora_parameters={"rank": 8, "scale": 10.0}))
    got, wanted = updates(file, record), updates(file, now)
    assert all(np.array_equal(got[site], wanted[site]) for site in wanted)
    assert "alpha is left out of account" in record.notes[0]


@pytest.mark.parametrize("alpha", [0, -1, None, "16", True, 10**400])
def test_an_alpha_that_is_none_is_refused(alpha: object, tmp_path: Path) -> None:
    parameters = {"rank": 8, "scale": 10.0, "alpha": alpha}
    with pytest.raises(MalformedAdapter, match="alpha"):
        read(write(tmp_path), config=config(lora_layers=16, lora_parameters=parameters))
