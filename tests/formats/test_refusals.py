"""Every refusal: the right class, the field by name, and what to do."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftType
from safetensors.torch import load_file, save_file

from lego_ray.errors import UnsupportedAdapter
from lego_ray.formats.refusals import (
    CHANGING_INITS,
    PLAIN_FIELDS,
    PLAIN_INITS,
    REFUSED_FIELDS,
    REFUSED_TENSORS,
    check_config,
    check_tensors,
)
from tests.formats.tiny_peft import edit_config, read, save, train


def refused(**fields: object) -> UnsupportedAdapter:
    with pytest.raises(UnsupportedAdapter) as caught:
        check_config({"peft_type": "LORA", **fields}, "s3://zoo/a/adapter_config.json")
    error = caught.value
    assert error.where == "s3://zoo/a/adapter_config.json"
    assert error.hint.endswith(".")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


def test_the_tables_know_every_field_of_this_peft() -> None:
    """Fails when a PEFT release adds a field: decide which table it belongs to."""
    known = PLAIN_FIELDS | set(REFUSED_FIELDS)
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields - known == set(), f"new in PEFT {peft.__version__}"
    assert PLAIN_FIELDS.isdisjoint(REFUSED_FIELDS)


def test_peft_declares_no_variant_that_is_let_through_unseen() -> None:
    variants = {f.name for f in dataclasses.fields(LoraConfig) if f.metadata.get("is_lora_variant")}
    # VeLoRA changes the backward pass alone; test_peft_read compares its update with PEFT's.
    assert variants - set(REFUSED_FIELDS) <= {"velora_config", "init_lora_weights"}


def test_what_peft_writes_by_default_is_let_through() -> None:
    config: Any = LoraConfig(target_modules=["q_proj"])
    check_config(config.to_dict(), "w")


@pytest.mark.parametrize("kind", [kind.value for kind in PeftType if kind.value != "LORA"])
def test_other_methods_are_refused(kind: str) -> None:
    assert kind in str(refused(peft_type=kind))


@pytest.mark.parametrize("kind", [None, 3, [], {}, "lora", ""])
def test_nonsense_methods_are_refused(kind: object) -> None:
    assert "peft_type" in str(refused(peft_type=kind))


@pytest.mark.parametrize("field", REFUSED_FIELDS)
def test_fields_are_refused_when_set(field: str) -> None:
    value: object = True if field.startswith(("use_", "lora_bias")) else [1]
    assert f"{field} is set" in str(refused(**{field: value}))
    nothing: tuple[object, ...] = (False, None, [], {})
    for unset in nothing:
        check_config({"peft_type": "LORA", field: unset}, "w")


def test_unknown_fields_are_refused_when_set() -> None:
    error = refused(use_quantum=True)
    assert "use_quantum is set, a field not known to this version" in str(error)
    assert "Upgrade lego-ray" in error.hint
    check_config({"peft_type": "LORA", "use_quantum": False, "quantum_config": None}, "w")


@pytest.mark.parametrize(
    "value",
    [
        "pissa",
        "PiSSA",
        "pissa_niter_16",
        "olora",
        "OLoRA",
        "corda",
        "loftq",
        "lora_ga",
        "new",
        1.5,
        [],
        {},
    ],
)
def test_inits_that_change_the_base_are_refused(value: object) -> None:
    error = refused(init_lora_weights=value)
    assert f"init_lora_weights is {value}" in str(error)


def test_converting_a_changed_base_is_explained() -> None:
    for name in ("pissa", "olora", "corda", "lora_ga"):
        assert "path_initial_model_for_weight_conversion" in refused(init_lora_weights=name).hint


@pytest.mark.parametrize("value", sorted(PLAIN_INITS, key=str))
def test_plain_inits_are_let_through(value: object) -> None:
    check_config({"peft_type": "LORA", "init_lora_weights": value}, "w")


def test_every_init_of_this_peft_is_decided() -> None:
    listed = {"gaussian", "eva", "olora", "pissa", "corda", "loftq", "orthogonal", "mica"}
    text = next(f for f in dataclasses.fields(LoraConfig) if f.name == "init_lora_weights").type
    quoted = {part for part in str(text).split("'")[1::2] if "[" not in part}
    assert quoted <= listed, f"new in PEFT {peft.__version__}"
    assert listed == {v for v in PLAIN_INITS if isinstance(v, str)} | (
        set(CHANGING_INITS) - {"lora_ga"}
    )


TENSORS = {
    "q.magnitude": "DoRA",
    "q.lora_magnitude_vector": "DoRA",
    "q.lora_magnitude_vector.default.weight": "DoRA",
    "q.lora_B.bias": "bias",
    "q.lora_B.default.bias": "bias",
    "q.lora_mid.weight": "third factor",
    "q.lora_E": "AdaLoRA",
    "q.ranknum": "AdaLoRA",
    "q.lora_diag": "KaSA",
    "q.dora_scale": "DoRA",
    "q.diff": "whole weight",
    "q.diff_b": "whole weight",
    "q.hada_w1_a": "LoHa",
    "q.lokr_w1": "LoKr",
    "q.diff_m": "whole weight",
    "q.w_norm": "a norm",
    "q.b_norm": "a norm",
    "q.set_weight": "replaces a weight",
    "q.reshape_weight": "replaces a weight",
    "transformer_blocks.0.qkv_proj.lora_down": "Nunchaku packed",
    "transformer_blocks.0.mlp_fc1.lora_up": "Nunchaku packed",
    "bundle_emb.cat.clip_l": "a new word",
    "q.on_input": "IA3",
    "q.oft_R": "OFT",
    "q.boft_s": "OFT",
    "q.ia3_l": "IA3",
    "q.vera_lambda_b": "VeRA",
    "emb.token_adapter.trainable_tokens_delta": "rows of the embedding",
    "emb.trainable_tokens_delta": "rows of the embedding",
}


# In a file of PEFT these may be the names of modules that were saved whole.
OF_LONE_FILES = {f"lora_unet_q.{part}.weight": "GLoRA" for part in ("a1", "a2", "b1", "b2", "bm")}
OF_LONE_FILES |= {
    "transformer.transformer_blocks.0.attn.norm_q.weight": "replaces a weight",
    "double_blocks.0.img_attn.norm.key_norm.scale": "replaces a weight",
}


@pytest.mark.parametrize(("key", "why"), OF_LONE_FILES.items())
def test_tensors_of_single_files_alone_are_refused(key: str, why: str) -> None:
    with pytest.raises(UnsupportedAdapter, match=why):
        check_tensors([key], "w")
    check_tensors([f"base_model.model.{key}"], "w")


@pytest.mark.parametrize(("key", "why"), TENSORS.items())
def test_tensors_of_other_methods_are_refused(key: str, why: str) -> None:
    name = f"base_model.model.{key}"
    with pytest.raises(UnsupportedAdapter, match=why) as caught:
        check_tensors(["base_model.model.q.lora_A.weight", name], "w")
    assert name in str(caught.value)
    assert caught.value.hint


def test_every_tensor_rule_has_a_test() -> None:
    import re

    for pattern in REFUSED_TENSORS:
        keys = [*(f"base_model.model.{key}" for key in TENSORS), *OF_LONE_FILES]
        assert any(re.search(pattern, key) for key in keys), pattern


REAL: dict[str, dict[str, Any]] = {
    "use_dora": {"use_dora": True, "target_modules": ["q_proj"]},
    "lora_bias": {"lora_bias": True, "target_modules": ["q_proj"]},
    "trainable_token_indices": {
        "trainable_token_indices": {"emb": [1, 2]},
        "target_modules": ["q_proj"],
    },
    "init_lora_weights": {"init_lora_weights": "olora", "target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("field", REAL)
def test_real_adapters_are_refused_by_their_configuration(tmp_path: Path, field: str) -> None:
    path = save(train(31, **REAL[field]), tmp_path / "a")
    with pytest.raises(UnsupportedAdapter, match=field):
        read(path)


@pytest.mark.parametrize("field", ["use_dora", "lora_bias", "trainable_token_indices"])
def test_real_adapters_are_refused_by_their_tensors(tmp_path: Path, field: str) -> None:
    """A configuration edited to look plain does not get them through."""
    path = edit_config(save(train(32, **REAL[field]), tmp_path / "a"), **{field: None})
    with pytest.raises(UnsupportedAdapter, match=r"adapter_model\.safetensors"):
        read(path)


def test_a_stray_tensor_is_refused_by_name(tmp_path: Path) -> None:
    path = save(train(33, target_modules=["q_proj"]), tmp_path / "a")
    file = path / "adapter_model.safetensors"
    stray = {f"base_model.model.x{i}.strange": torch.randn(2) for i in range(5)}
    save_file({**load_file(file), **stray}, file)
    with pytest.raises(UnsupportedAdapter, match=r"x0\.strange.*and 2 more"):
        read(path)


def test_glora_says_how_to_make_a_plain_lora_of_it() -> None:
    with pytest.raises(UnsupportedAdapter, match="GLoRA multiplies") as of_lycoris:
        check_tensors(["lora_unet_q.a1.weight"], "w")
    with pytest.raises(UnsupportedAdapter, match="GLoRA multiplies") as of_peft:
        check_config({"peft_type": "GLORA"}, "w")
    for caught in (of_lycoris, of_peft):
        assert "extract a plain LoRA from the difference (kohya: " in caught.value.hint
