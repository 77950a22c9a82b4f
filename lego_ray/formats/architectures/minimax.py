"""MiniMax-H3, whose two halves of the first layer of an MLP change places in diffusers.

Source: diffusers' `_convert_non_diffusers_minimax_h3_lora_to_diffusers`. The rows of `qkv_proj` are q, k
and v one after another, as all trainers but DiffSynth have them; see `planning.by_head`. Its heads are
together wider than its hidden state, as no other model's here.
"""

from __future__ import annotations

from lego_ray.formats.architectures.row import Row
from lego_ray.formats.architectures.rows import Architecture, renamed

_ADALN = "adaln_proj.linear"

MINIMAX_H3 = Architecture(
    "MiniMax-H3",
    (
        *(
            row
            for here, there in (
                ("blocks.#.", "transformer_blocks.#."),
                ("token_refiner.blocks.#.", "token_refiner.refiner_blocks.#."),
            )
            for row in (
                Row(
                    f"{here}attn.qkv_proj",
                    tuple(f"{there}attn.to_{part}" for part in "qkv"),
                    is_oblong=True,
                ),
                Row(f"{here}attn.out_proj", (f"{there}attn.to_out.0",), is_oblong=True),
                Row(f"{here}mlp.fc1", (f"{there}ff.net.0.proj",), is_swapped=True),
                *renamed({"mlp.fc2": "ff.net.2"}, here, there),
            )
        ),
        *renamed({_ADALN: _ADALN}, "blocks.#.", "transformer_blocks.#."),
        *renamed(
            {
                "video_patch_proj": "proj_in",
                "audio_patch_proj": "audio_proj_in",
                "condition_proj": "context_embedder",
                "time_embedder.proj_in": "time_embedder.linear_1",
                "time_embedder.proj_out": "time_embedder.linear_2",
                f"final_layer.{_ADALN}": "norm_out.linear",
                "final_layer.video_out": "proj_out",
                "final_layer.audio_out": "audio_proj_out",
            }
        ),
    ),
    bases=r"minimax.?h3",
    blocks={
        **dict.fromkeys(("blocks", "transformer_blocks"), 50),
        **dict.fromkeys(("token_refiner.blocks", "token_refiner.refiner_blocks"), 2),
    },
)
