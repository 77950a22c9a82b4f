"""LoHa and LoKr as PEFT saves them, against PEFT's own update."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from tests.formats.tiny_peft import (
    TinyModel,
    edit_config,
    our_deltas,
    peft_deltas,
    read,
    save,
)
from tests.formats.tiny_peft import train as train_lora
from tests.zoo import relative_error

ROUNDING = 64 * 2.0**-24
FILE = "adapter_model.safetensors"
LINEAR = ["q_proj", "v_proj", "score"]


def train(path: Path, kind: str, seed: int = 1, **options: Any) -> PeftModel:
    """Saves a LoHa or LoKr with random tensors."""
    made: Any = {"loha": LoHaConfig, "lokr": LoKrConfig}[kind]
    fields: dict[str, Any] = {"r": 2, "alpha": 3, "target_modules": LINEAR, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: PeftModel = get_peft_model(TinyModel(), made(**fields))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "hada_" in name or "lokr_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(str(path))
    edit_config(path, base_model_name_or_path="tiny/base")
    return model


@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"r": 5, "alpha": 1},
        {"rank_pattern": {"v_proj": 1}, "alpha_pattern": {"layers.0.q_proj": 9}},
        {"rank_dropout": 0.1, "module_dropout": 0.1, "init_weights": False},
        {"target_modules": [*LINEAR, "conv"], "use_effective_conv2d": True, "r": 1},
        {"target_modules": [*LINEAR, "point"]},
    ],
)
def test_the_update_is_pefts(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = train(tmp_path / "a", kind, **options)
    record = read(tmp_path / "a")
    ours, theirs = our_deltas(tmp_path / "a", record), peft_deltas(model)
    assert ours.keys() == theirs.keys()
    assert relative_error(_numpy(ours), _numpy(theirs)) < ROUNDING
    name = {"loha": "LoHa", "lokr": "LoKr"}[kind]
    assert any(f"{name}: merged as the plain LoRA of rank" in note for note in record.notes)


@pytest.mark.parametrize(
    "options",
    [
        {"decompose_both": True, "r": 1},
        {"decompose_factor": 2},
        {"decompose_factor": 3, "r": 8},
        {"decompose_both": True, "decompose_factor": 2, "r": 1, "rank_dropout_scale": True},
        {"init_weights": "lycoris"},
    ],
)
def test_the_update_of_a_lokr_is_pefts_however_it_is_decomposed(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = train(tmp_path / "a", "lokr", **options)
    ours = our_deltas(tmp_path / "a", read(tmp_path / "a"))
    assert relative_error(_numpy(ours), _numpy(peft_deltas(model))) < ROUNDING


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_a_merge_with_a_plain_lora_is_the_sum_when_peft_loads_it(
    method: str, tmp_path: Path
) -> None:
    targets = ["q_proj", "v_proj"]
    parts = [
        peft_deltas(train(tmp_path / "zoo/loha", "loha", target_modules=targets)),
        peft_deltas(train(tmp_path / "zoo/lokr", "lokr", target_modules=targets)),
        peft_deltas(train_lora(target_modules=targets)),
    ]
    save(train_lora(target_modules=targets), tmp_path / "zoo/lora")
    edit_config(tmp_path / "zoo/lora", base_model_name_or_path="tiny/base")
    record = lego_ray.merge(
        tmp_path / "zoo",
        method=method,
        rank=24 if method == "concat" else 12,
        runner="inline",
        output=tmp_path / "m",
    )
    assert len(record["notes"]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = peft_deltas(PeftModel.from_pretrained(TinyModel(), str(tmp_path / "m")))
    wanted = {name: sum(part[name] for part in parts) for name in parts[0]}
    assert relative_error(_numpy(got), _numpy(wanted)) < ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    train(tmp_path / "rank", "loha")
    edit_config(tmp_path / "rank", r=3)
    with pytest.raises(RankMismatch, match="configured with rank 3, its tensors have rank 2"):
        read(tmp_path / "rank")
    train(tmp_path / "half", "loha")
    tensors = load_file(tmp_path / "half" / FILE)
    save_file({k: t for k, t in tensors.items() if "w2_b" not in k}, tmp_path / "half" / FILE)
    with pytest.raises(MalformedAdapter, match="is a LoHa and lacks its w2_b"):
        read(tmp_path / "half")
    train(tmp_path / "conv", "loha", target_modules=["conv"])
    with pytest.raises(UnsupportedAdapter, match="do not say what the kernel's sizes are"):
        read(tmp_path / "conv")
    train(tmp_path / "conv1", "lokr", target_modules=["conv1"], r=8)
    with pytest.raises(UnsupportedAdapter, match="PEFT mixes the axes up"):
        read(tmp_path / "conv1")
    train(tmp_path / "field", "lokr")
    edit_config(tmp_path / "field", other_option=True)
    with pytest.raises(UnsupportedAdapter, match="other_option is set"):
        read(tmp_path / "field")


def test_tensors_of_the_kinds_beside_a_configuration_of_lora_are_refused(tmp_path: Path) -> None:
    train(tmp_path / "a", "lokr")
    edit_config(tmp_path / "a", peft_type="LORA", lora_alpha=8, **_WITHOUT)
    with pytest.raises(UnsupportedAdapter, match="it is of a LoKr"):
        read(tmp_path / "a")


_WITHOUT = dict.fromkeys(
    (
        *("alpha", "rank_dropout", "module_dropout", "rank_dropout_scale", "init_weights"),
        *("use_effective_conv2d", "decompose_both", "decompose_factor"),
    )
)


def _numpy(deltas: dict[str, Any]) -> dict[str, Any]:
    return {name: delta.double().numpy() for name, delta in deltas.items()}


def test_a_loha_whose_second_part_has_another_rank_is_refused(tmp_path: Path) -> None:
    """PEFT makes both parts with the rank of the configuration, and does not load such a file."""
    train(tmp_path / "a", "loha")
    tensors = load_file(tmp_path / "a" / FILE)
    for name, tensor in tensors.items():
        if ".hada_w2_a" in name:
            tensors[name] = torch.ones(tensor.shape[0], 3)
        elif ".hada_w2_b" in name:
            tensors[name] = torch.ones(3, tensor.shape[1])
    save_file(tensors, tmp_path / "a" / FILE)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(TinyModel(), str(tmp_path / "a"))
    with pytest.raises(RankMismatch, match=r"is a LoHa configured with rank 2, and .* has rank 3"):
        read(tmp_path / "a")
