"""Wan 2.x.

Source: diffusers' `_convert_non_diffusers_wan_lora_to_diffusers` and, of norms,
`convert_wan_transformer_to_diffusers`.
"""

from __future__ import annotations

from lego_ray.formats.architectures.rows import Architecture, renamed

_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}

_NORMS = {"norm_q": "norm_q", "norm_k": "norm_k"}

WAN = Architecture(
    "Wan",
    (
        *renamed(_PROJECTIONS, "blocks.#.self_attn.", "blocks.#.attn1."),
        *renamed(
            {**_PROJECTIONS, "k_img": "add_k_proj", "v_img": "add_v_proj"},
            "blocks.#.cross_attn.",
            "blocks.#.attn2.",
        ),
        *renamed({"0": "net.0.proj", "2": "net.2"}, "blocks.#.ffn."),
        *renamed(
            {
                "time_projection.1": "time_proj",
                "text_embedding.0": "text_embedder.linear_1",
                "text_embedding.2": "text_embedder.linear_2",
                "time_embedding.0": "time_embedder.linear_1",
                "time_embedding.2": "time_embedder.linear_2",
                "img_emb.proj.1": "image_embedder.ff.net.0.proj",
                "img_emb.proj.3": "image_embedder.ff.net.2",
            },
            "",
            "condition_embedder.",
        ),
        *renamed({"head.head": "proj_out"}),
    ),
    bases=r"\bwan",
    norms=(
        *renamed(_NORMS, "blocks.#.self_attn.", "blocks.#.attn1."),
        *renamed(
            {**_NORMS, "norm_k_img": "norm_added_k"}, "blocks.#.cross_attn.", "blocks.#.attn2."
        ),
        # Each block's one norm with weights; the authors number the three in another order.
        *renamed({"norm3": "norm2"}, "blocks.#."),
        *renamed(
            {"img_emb.proj.0": "norm1", "img_emb.proj.4": "norm2"},
            "",
            "condition_embedder.image_embedder.",
        ),
    ),
)
