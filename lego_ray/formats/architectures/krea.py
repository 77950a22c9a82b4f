"""Krea 2. Source: diffusers' `_convert_non_diffusers_krea2_lora_to_diffusers`."""

from __future__ import annotations

from lego_ray.formats.architectures.rows import Architecture, renamed

KREA2 = Architecture(
    "Krea 2",
    (
        *(
            row
            for here, there in (
                ("blocks.#.", "transformer_blocks.#."),
                ("txtfusion.layerwise_blocks.#.", "text_fusion.layerwise_blocks.#."),
                ("txtfusion.refiner_blocks.#.", "text_fusion.refiner_blocks.#."),
            )
            for row in renamed(
                {
                    **{f"attn.w{part}": f"attn.to_{part}" for part in "qkv"},
                    "attn.wo": "attn.to_out.0",
                    "attn.gate": "attn.to_gate",
                    **{f"mlp.{part}": f"ff.{part}" for part in ("gate", "up", "down")},
                },
                here,
                there,
            )
        ),
        *renamed(
            {
                "first": "img_in",
                "last.linear": "final_layer.linear",
                "tmlp.0": "time_embed.linear_1",
                "tmlp.2": "time_embed.linear_2",
                "tproj.1": "time_mod_proj",
                "txtmlp.1": "txt_in.linear_1",
                "txtmlp.3": "txt_in.linear_2",
                "txtfusion.projector": "text_fusion.projector",
            }
        ),
    ),
    bases=r"krea.?2",
    blocks={
        **dict.fromkeys(("blocks", "transformer_blocks"), 28),
        **dict.fromkeys(
            (
                f"{of}.{kind}"
                for of in ("txtfusion", "text_fusion")
                for kind in ("layerwise_blocks", "refiner_blocks")
            ),
            2,
        ),
    },
)
