"""Text encoders get the denoiser's style of names, and the place that they have in the pipeline."""

from __future__ import annotations

import pytest

from lego_ray.errors import LayoutMismatch
from lego_ray.planning.styles import in_one_style

T5 = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
DOTTED = "transformer.transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("denoiser", "place"),
    [
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "text_encoder_3."),
        ("lora_unet_double_blocks_0_img_attn_qkv", "text_encoder_2."),
        ("lora_unet_single_transformer_blocks_0_attn_to_q", "text_encoder_2."),
    ],
)
def test_t5_is_the_encoder_that_it_is_in_the_model(denoiser: str, place: str) -> None:
    found = in_one_style([[DOTTED], [denoiser, T5]], [[DOTTED], [DOTTED, T5]])
    assert found[T5].startswith(place)


def test_clip_g_is_the_second_encoder_and_t5_the_third() -> None:
    clip_g = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    found = in_one_style([[DOTTED], [clip_g, T5]], [[DOTTED], [DOTTED, clip_g, T5]])
    assert found[T5].startswith("text_encoder_3.")
    assert found[clip_g].startswith("text_encoder_2.")


def test_where_nothing_shows_the_model_t5_is_not_guessed() -> None:
    flat = "lora_unet_transformer_blocks_0_attn_to_q"
    with pytest.raises(LayoutMismatch, match="is not known"):
        in_one_style([[DOTTED], [flat, T5]], [[DOTTED], [DOTTED, T5]])
