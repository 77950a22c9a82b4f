"""Layouts that are not read yet are refused by name."""

from __future__ import annotations

import pytest

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.layouts import check_layout, recognise

KEYS = {
    "base_model.model.layers.0.q_proj.lora_A.weight": "peft",
    "base_model.model.emb.lora_embedding_A": "peft",
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": "kohya",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": "kohya",
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": "kohya",
    "unet.down_blocks.0.attentions.0.to_q.lora_A.weight": "diffusers",
    "transformer.single_blocks.0.attn.to_q.lora_A.weight": "diffusers",
    "text_encoder.text_model.layers.0.q_proj.lora_linear_layer.up.weight": "diffusers",
    "text_encoder_2.text_model.layers.0.q_proj.lora_B.weight": "diffusers",
    "down_blocks.0.attn1.processor.to_q_lora.down.weight": "diffusers",
    "model.layers.0.self_attn.q_proj.lora_a": "mlx",
}

PEFT = {"peft_type": "LORA"}


@pytest.mark.parametrize(("key", "name"), KEYS.items())
def test_layouts_are_recognised_by_their_keys(key: str, name: str) -> None:
    found = recognise([key])
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("key", [key for key, name in KEYS.items() if name != "peft"])
@pytest.mark.parametrize("config", [None, {"fine_tune_type": "lora"}])
def test_other_layouts_are_refused_by_name(key: str, config: dict[str, object] | None) -> None:
    with pytest.raises(UnsupportedAdapter, match=f"in {KEYS[key]}'s layout") as caught:
        check_layout(config, [key], "w")
    assert "PEFT" in caught.value.hint


@pytest.mark.parametrize("key", [key for key, name in KEYS.items() if name in ("kohya", "mlx")])
def test_a_configuration_of_peft_does_not_hide_another_layout(key: str) -> None:
    with pytest.raises(UnsupportedAdapter, match=f"in {KEYS[key]}'s layout"):
        check_layout(PEFT, [key], "w")


def test_modules_of_gpt2_are_not_taken_for_diffusers() -> None:
    with pytest.raises(MalformedAdapter, match=r"prefix base_model\.model\."):
        check_layout(PEFT, ["transformer.h.0.attn.c_attn.lora_A.weight"], "w")


def test_a_configuration_of_mlx_is_told_from_a_broken_one() -> None:
    with pytest.raises(UnsupportedAdapter, match="mlx-lm"):
        check_layout({"fine_tune_type": "lora", "lora_parameters": {}}, [], "w")
    with pytest.raises(MalformedAdapter, match="no peft_type"):
        check_layout({"r": 8}, [], "w")


def test_weights_alone_are_refused() -> None:
    with pytest.raises(MalformedAdapter, match=r"no adapter_config\.json"):
        check_layout(None, ["base_model.model.q.lora_A.weight"], "w")


def test_keys_of_no_layout_are_refused() -> None:
    with pytest.raises(MalformedAdapter, match=r"prefix base_model\.model\."):
        check_layout(PEFT, ["q.lora_A.weight"], "w")
    with pytest.raises(MalformedAdapter, match="no layout known"):
        check_layout(PEFT, ["q.weight"], "w")


def test_peft_is_let_through() -> None:
    assert check_layout(PEFT, ["base_model.model.q.lora_A.weight"], "w").name == "peft"
    assert check_layout(PEFT, [], "w").name == "peft"
