"""Layouts are told by their keys and their configuration; others are refused by name."""

from __future__ import annotations

import pytest

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.layouts import check_layout, recognize
from lego_ray.formats.reading import is_adapter

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
    "transformer_2.blocks.0.attn.to_q.lora_A.weight": "diffusers",
    "unet.down_blocks.0.attn.to_q.lora.up.weight": "diffusers",
    "lora_transformer_single_blocks_0_attn_to_q.lora_down.weight": "kohya",
    "lycoris_blocks_0_to_q.lokr_w1": "kohya",
    "diffusion_model.blocks.0.attn.q.lora_down.weight": "kohya",
    "diffusion_model.blocks.0.attn.q.lora_A.weight": "comfyui",
    "double_blocks.0.processor.qkv_lora1.down.weight": "xlabs",
    "single_blocks.0.processor.proj_lora.up.weight": "xlabs",
    "lora_unet_blocks_0_self_attn_q.lora_A.weight": "kohya",
    "lora_unet__blocks_0_self_attn_q.lora_up.weight": "kohya",
    "lora_prior_unet_down_blocks_0_0.lora_down.weight": "kohya",
    "pipe.dit.blocks.0.self_attn.q.lora_A.default.weight": "comfyui",
    "model.diffusion_model.blocks.0.q.lora_B.weight": "comfyui",
    "text_encoders.clip_l.transformer.text_model.x.lora_A.weight": "comfyui",
    "transformer_blocks.0.attn.to_q.lora_A.weight": "comfyui",
    "transformer_blocks.0.attn.to_q.lora_A.default.weight": "comfyui",
    "blocks.0.attn.qkv_x.lora_A": "comfyui",
    "layers.0.attention.to_q.lora.down.weight": "comfyui",
    "down_blocks.0.to_q.lora_A.weight": "comfyui",
    "transformer.transformer_blocks.0.attn.to_q.lora_A.default.weight": "diffusers",
    "model.layers.0.self_attn.q_proj.lora_a": "mlx",
}
PEFT = {"peft_type": "LORA"}


@pytest.mark.parametrize(("key", "name"), KEYS.items())
def test_layouts_are_recognized_by_their_keys(key: str, name: str) -> None:
    found = recognize([key])
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("key", [key for key, name in KEYS.items() if name not in ("peft", "mlx")])
def test_single_files_need_no_configuration(key: str) -> None:
    assert check_layout(None, [key], "w").name == KEYS[key]


@pytest.mark.parametrize("key", [key for key, name in KEYS.items() if name in ("kohya", "mlx")])
def test_a_configuration_of_peft_does_not_hide_another_layout(key: str) -> None:
    with pytest.raises(UnsupportedAdapter, match=f"in {KEYS[key]}'s layout") as caught:
        check_layout(PEFT, [key], "w")
    assert "directory of its own" in caught.value.hint


def test_modules_of_gpt2_are_not_taken_for_diffusers() -> None:
    with pytest.raises(MalformedAdapter, match=r"prefix base_model\.model\."):
        check_layout(PEFT, ["transformer.h.0.attn.c_attn.lora_A.weight"], "w")


def test_a_configuration_of_mlx_is_told_from_a_broken_one() -> None:
    assert check_layout({"fine_tune_type": "lora"}, ["x.lora_a"], "w").name == "mlx"
    assert check_layout({"lora_parameters": {}}, [], "w").name == "mlx"
    with pytest.raises(UnsupportedAdapter, match="in kohya's layout"):
        check_layout({"fine_tune_type": "lora"}, ["lora_unet_x.lora_up.weight"], "w")
    with pytest.raises(MalformedAdapter, match="no layout known"):
        check_layout({"fine_tune_type": "lora"}, ["model.x.weight"], "w")
    with pytest.raises(MalformedAdapter, match="no peft_type"):
        check_layout({"r": 8}, [], "w")


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.q.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.blocks.0.attn.qkv.lora_A.weight",  # ViT's, as far as anyone can tell
        "model.q.lora_a",
    ],
)
def test_weights_whose_scaling_is_beside_them_are_refused_alone(key: str) -> None:
    with pytest.raises(MalformedAdapter, match=r"no adapter_config\.json"):
        check_layout(None, [key], "w")


@pytest.mark.parametrize(
    "key",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "transformer.h.0.attn.c_attn.weight",
        "unet.down_blocks.0.attn.to_q.weight",
        "text_encoder.text_model.layers.0.q_proj.weight",
        "emb_params",
        "clip_l",
    ],
)
def test_models_and_textual_inversions_are_no_layout(key: str) -> None:
    assert recognize([key]) is None
    assert not is_adapter([key], "w")


@pytest.mark.parametrize(
    "key", ["q.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_A.weight", "LoRA.0"]
)
def test_what_may_be_a_lora_and_is_none_known_is_refused_by_name(key: str) -> None:
    with pytest.raises(UnsupportedAdapter, match=f"such as {key}"):
        is_adapter(["x.weight", key], "w")
    with pytest.raises(UnsupportedAdapter, match="LoKr"):
        is_adapter(["x.lokr_w1"], "w")


@pytest.mark.parametrize("name", ["text_fusion", "txtfusion"])
def test_bare_names_of_what_reads_the_text_in_krea_2_are_an_image_models(name: str) -> None:
    assert check_layout(None, [f"{name}.refiner_blocks.0.x.lora_A.weight"], "w").name == "comfyui"


def test_names_of_peft_in_a_lone_file_are_read_of_image_models_alone() -> None:
    key = "base_model.model.single_transformer_blocks.0.attn.to_k.lora_A.weight"
    assert check_layout(None, [key], "zoo/swd.safetensors").name == "comfyui"
    with pytest.raises(MalformedAdapter, match=r"no adapter_config\.json"):
        check_layout(None, [key], "zoo/adapter_model.safetensors")


@pytest.mark.parametrize(
    "key",
    [
        "blocks.0.att.key.lora_A",  # RWKV
        "blocks.0.ffn.key.lora_A",
        "layers.0.attention.wq.lora_A.weight",  # Llama's own names
        "layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_bare_names_of_language_models_are_not_taken_for_an_image_models(key: str) -> None:
    assert recognize([key]) is None
    with pytest.raises(UnsupportedAdapter, match="no layout known"):
        is_adapter([key], "w")


def test_keys_of_no_layout_are_refused() -> None:
    with pytest.raises(MalformedAdapter, match=r"prefix base_model\.model\."):
        check_layout(PEFT, ["q.lora_A.weight"], "w")
    with pytest.raises(MalformedAdapter, match="no layout known"):
        check_layout(PEFT, ["q.weight"], "w")


def test_peft_is_let_through() -> None:
    assert check_layout(PEFT, ["base_model.model.q.lora_A.weight"], "w").name == "peft"
    assert check_layout(PEFT, [], "w").name == "peft"
