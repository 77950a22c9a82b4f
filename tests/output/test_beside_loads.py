"""Biases of B and rows of tokens that are kept of one adapter: PEFT does what it did with that one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import lego_ray
from lego_ray.errors import NoAdaptersFound, UnreadableOutput
from tests.formats.tiny_experts import model, rewrite, train
from tests.output.test_output_loads import bert, loaded

FILE = "adapter_model.safetensors"
# Sums of a few products of float32.
ROUNDING = 1e-5
QUERY, KEY = "query", "key"


def saved(path: Path, seed: int, targets: list[str], **options: Any) -> None:
    """An adapter of `bert()` with random factors and biases."""
    fields: dict[str, Any] = {"r": 2, "lora_alpha": 6, "target_modules": targets, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(bert(), LoraConfig(**fields))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                if "lora_" in key:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        made.save_pretrained(str(path))


def outputs(path: Path | None) -> dict[str, Tensor]:
    """What each projection makes of one input, with an adapter or without."""
    made: Any = bert()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path is not None:
            made = PeftModel.from_pretrained(made, str(path)).base_model.model
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(7))
    return {
        name: module(x).detach()
        for name, module in made.named_modules()
        if name.rpartition(".")[2] in (QUERY, KEY, "value")
    }


def test_the_biases_of_one_adapter_are_kept_times_its_scaling(tmp_path: Path) -> None:
    saved(tmp_path / "zoo" / "a", 1, [QUERY, "value"], lora_bias=True)
    saved(tmp_path / "zoo" / "b", 2, [QUERY, KEY])
    record = lego_ray.merge(
        tmp_path / "zoo",
        output=tmp_path / "m",
        rank=4,
        method="concat",
        full_weights="keep:a",
        runner="inline",
    )
    loaded(bert(), tmp_path / "m")  # without a warning of PEFT, so no bias is missing
    base, a, b, got = map(outputs, (None, tmp_path / "zoo/a", tmp_path / "zoo/b", tmp_path / "m"))
    for name in base:
        wanted = a[name] + b[name] - base[name]
        assert torch.allclose(got[name], wanted, atol=ROUNDING), name
    assert any("bias" in warning for warning in record["warnings"])
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]
    # And once more through a merge of the merge, whose scaling is 1.
    lego_ray.merge(
        tmp_path / "m", output=tmp_path / "n", rank=4, full_weights="keep:m", runner="inline"
    )
    again = outputs(tmp_path / "n")
    assert all(torch.allclose(again[name], got[name], atol=ROUNDING) for name in got)


def test_two_adapters_with_biases_keep_those_of_one(tmp_path: Path) -> None:
    saved(tmp_path / "zoo" / "a", 1, [QUERY], lora_bias=True)
    saved(tmp_path / "zoo" / "b", 2, [QUERY], lora_bias=True)
    record = lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "m", rank=4, full_weights="keep:b", runner="inline"
    )
    [left_out] = [each["note"] for each in record["notes"]]
    assert "left out by --full-weights keep:b" in left_out
    key = f"base_model.model.bert.encoder.layer.0.attention.self.{QUERY}.lora_B.bias"
    kept = load_file(tmp_path / "zoo" / "b" / FILE)[key]
    assert torch.equal(load_file(tmp_path / "m" / FILE)[key], 3 * kept)


def test_biases_do_not_go_with_an_adapted_embedding(tmp_path: Path) -> None:
    saved(tmp_path / "zoo" / "a", 1, [QUERY], lora_bias=True)
    saved(tmp_path / "zoo" / "b", 2, ["word_embeddings"])
    with pytest.raises(UnreadableOutput, match="no lora_bias with an embedding"):
        lego_ray.plan(tmp_path / "zoo", rank=4, full_weights="keep:a")


def test_biases_are_summed_times_the_scalings_and_weights(tmp_path: Path) -> None:
    saved(tmp_path / "zoo" / "a", 1, [QUERY, "value"], lora_bias=True)
    saved(tmp_path / "zoo" / "b", 2, [QUERY, KEY], lora_bias=True, lora_alpha=1)
    saved(tmp_path / "zoo" / "c", 3, [KEY])
    record = lego_ray.merge(
        tmp_path / "zoo",
        output=tmp_path / "m",
        rank=6,
        method="concat",
        full_weights="sum",
        weights={"a": 0.5},
        runner="inline",
    )
    loaded(bert(), tmp_path / "m")  # without a warning of PEFT, so no bias is missing
    base, got = outputs(None), outputs(tmp_path / "m")
    a, b, c = (outputs(tmp_path / "zoo" / name) for name in "abc")
    for name in base:
        wanted = 0.5 * (a[name] - base[name]) + b[name] + c[name] - base[name]
        assert torch.allclose(got[name], wanted, atol=ROUNDING), name
    assert any("the sum over" in warning for warning in record["warnings"])
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_averaged_biases_are_the_mean_of_those_that_have_one(tmp_path: Path) -> None:
    saved(tmp_path / "zoo" / "a", 1, [QUERY], lora_bias=True)
    saved(tmp_path / "zoo" / "b", 2, [QUERY, KEY], lora_bias=True)
    saved(tmp_path / "zoo" / "c", 3, [QUERY])
    asked = {"rank": 6, "full_weights": "average", "preset": "paper"}  # at no norm but their own
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", runner="inline", **asked)  # type: ignore[arg-type]
    key = f"base_model.model.bert.encoder.layer.0.attention.self.{QUERY}.lora_B.bias"
    one, two = (load_file(tmp_path / "zoo" / name / FILE)[key].double() for name in "ab")
    assert torch.equal(load_file(tmp_path / "m" / FILE)[key], ((3 * one + 3 * two) / 2).float())
    saved(tmp_path / "zoo" / "d", 4, ["word_embeddings"])
    with pytest.raises(UnreadableOutput, match="no lora_bias with an embedding"):
        lego_ray.plan(tmp_path / "zoo", rank=4, full_weights="sum")


def test_weights_that_replace_others_are_not_summed(tmp_path: Path) -> None:
    saved(tmp_path / "zoo" / "a", 1, [QUERY], modules_to_save=["dense"])
    saved(tmp_path / "zoo" / "b", 2, [QUERY], bias="all")
    train("llama", tmp_path / "zoo" / "c", 1, **TOKENS)
    with pytest.raises(NoAdaptersFound, match="all 3 adapters were refused"):
        lego_ray.plan(tmp_path / "zoo", rank=4, full_weights="sum")
    for name, wanted in (("a", "takes differences"), ("b", "takes differences"), ("c", "rows of")):
        with pytest.raises(NoAdaptersFound, match=wanted):
            lego_ray.plan(tmp_path / "zoo" / name, rank=4, full_weights="average")


TOKENS: dict[str, Any] = {
    "target_parameters": None,
    "trainable_token_indices": {"embed_tokens": [3, 5]},
}


def test_rows_of_tokens_are_kept_of_one_adapter(tmp_path: Path) -> None:
    train("llama", tmp_path / "zoo" / "a", 1, **TOKENS)
    train("llama", tmp_path / "zoo" / "b", 2, target_parameters=None)
    rewrite(tmp_path / "zoo" / "a", lambda key, t: t + 1 if "trainable_tokens" in key else t)
    [key] = [k for k in load_file(tmp_path / "zoo" / "a" / FILE) if "trainable_tokens" in k]
    lego_ray.merge(
        tmp_path / "zoo",
        output=tmp_path / "m",
        rank=4,
        method="concat",
        full_weights="keep:a",
        runner="inline",
    )
    rows = load_file(tmp_path / "zoo" / "a" / FILE)[key]
    assert torch.equal(load_file(tmp_path / "m" / FILE)[key], rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_a, merged = (
            PeftModel.from_pretrained(model("llama"), str(tmp_path / place))
            for place in ("zoo/a", "m")
        )
    tokens = torch.tensor([[1, 3, 5, 7]])
    one, two = (m.get_input_embeddings()(tokens) for m in (of_a, merged))
    assert torch.equal(one, two)
    assert not torch.equal(one, model("llama").get_input_embeddings()(tokens))  # type: ignore[operator]
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_rows_of_tokens_do_not_go_with_an_adapted_embedding(tmp_path: Path) -> None:
    train("llama", tmp_path / "zoo" / "a", 1, **TOKENS)
    train(
        "llama", tmp_path / "zoo" / "b", 2, target_parameters=None, target_modules=["embed_tokens"]
    )
    with pytest.raises(UnreadableOutput, match="is adapted and rows of it are kept"):
        lego_ray.plan(tmp_path / "zoo", rank=4, full_weights="keep:a")
