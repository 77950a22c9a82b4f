"""Adapters that name one model's modules in ways that differ by more than spelling; and others."""

from __future__ import annotations

import pytest

from lego_ray.errors import LayoutMismatch
from tests.planning.test_naming import of, peft, plan

LLAMA = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("layout", "first", "second"),
    [
        ("kohya", "lora_unet_double_blocks_0_img_mod", "lora_transformer_transformer_blocks_0_to_q"),
        ("kohya", "lora_unet_layers_0_attention_qkv", "lora_unet_layers_0_attention_to_q"),
        ("kohya", "lora_unet_input_blocks_4_1_proj_in", "unet.down_blocks.1.attentions.0.proj_in"),
        ("kohya", "lora_unet_joint_blocks_0_x_attn_qkv", "lora_unet_transformer_blocks_0_attn_to_k"),
        ("kohya", "diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.attn1.to_q"),
        ("kohya", "diffusion_model.blocks.0.ffn.0", "diffusion_model.blocks.0.ffn.net.0.proj"),
        ("diffusers", "transformer.blocks.0.self_attn.q", "transformer.blocks.0.attn1.to_q"),
        ("peft", "model.layers.0.self_attn.qkv_proj", LLAMA),
        ("peft", "model.layers.0.mlp.gate_up_proj", "model.layers.3.mlp.up_proj"),
        ("peft", LLAMA, "model.text_model.layers.0.self_attn.q_proj"),
        ("peft", LLAMA, "layers.5.self_attn.q_proj"),
        ("peft", "language_model.layers.0.q", "model.language_model.layers.0.q"),
        ("peft", "transformer.h.0.attn.c_attn", "h.0.attn.c_attn"),
        ("diffusers", "transformer.transformer_blocks.0.x", "transformer.dit.transformer_blocks.0.x"),
    ],
)  # fmt: skip
def test_two_namings_are_refused_with_both_and_an_adapter_of_each(
    layout: str, first: str, second: str
) -> None:
    shared = (
        "lora_unet_x" if layout == "kohya" else "unet.x" if layout == "diffusers" else "lm_head"
    )
    for names in ((first, second), (second, first)):
        with pytest.raises(LayoutMismatch) as caught:
            plan(*(of(n, name, shared, layout=layout) for n, name in zip("ab", names, strict=True)))
        said = str(caught.value)
        assert all(part in said for part in (first, second, "/zoo/a", "/zoo/b"))


@pytest.mark.parametrize(
    ("layout", "first", "second"),
    [
        ("peft", LLAMA, "model.layers.0.mlp.up_proj"),
        ("peft", "encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.q"),
        ("peft", "model.layers.0.q_proj", "model.vision_tower.layers.0.q_proj"),
        ("peft", "model.visual.blocks.0.attn.qkv", LLAMA),
        ("kohya", "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_0_linear1"),
        ("kohya", "lora_unet_blocks_0_attn1_Wqkv", "lora_unet_blocks_0_attn2_q_proj"),
        ("kohya", "lora_unet_blocks_0_self_attn_q", "lora_unet_blocks_0_cross_attn_k"),
        ("diffusers", "transformer.double_blocks.0.to_q", "transformer.single_blocks.0.to_q"),
        ("diffusers", "text_encoder.layers.0.q_proj", "text_encoder_2.layers.0.q_proj"),
    ],
)  # fmt: skip
def test_parts_of_one_model_are_merged_with_a_warning(layout: str, first: str, second: str) -> None:
    made = plan(of("a", first, layout=layout), of("b", second, layout=layout))
    assert made.n_sites == 2
    [warning] = [w for w in made.warnings if "no module in common" in w]
    assert all(part in warning for part in ("2 sets", first, second, "/zoo/a", "/zoo/b"))


def test_an_adapter_with_both_shows_that_they_are_two_modules() -> None:
    both = peft("a", LLAMA, "model.extra.layers.0.self_attn.q_proj")
    made = plan(both, peft("b", LLAMA), peft("c", "model.extra.layers.0.self_attn.q_proj"))
    assert (made.n_sites, made.warnings) == (2, ())


def test_other_shapes_are_other_modules() -> None:
    from tests.planning.records import adapter, factors, inventory
    from tests.planning.test_agreement import plan as plan_of

    wide = adapter("a", [factors("model.layers.0.q", shape=(8, 8))])
    thin = adapter("b", [factors("model.extra.layers.0.q", shape=(4, 8))])
    assert plan_of(inventory(wide, thin)).n_sites == 2
