"""Qwen-Image, whose modules diffusers calls as its authors do.

Source: diffusers' `_convert_non_diffusers_qwen_lora_to_diffusers`.
"""

from __future__ import annotations

from lego_ray.formats.architectures.rows import Architecture, same

_BLOCK = "transformer_blocks.#."

QWEN_IMAGE = Architecture(
    "Qwen-Image",
    same(
        *(
            f"{_BLOCK}attn.{name}"
            for name in (
                *("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"),
                *("to_out.0", "to_add_out"),
            )
        ),
        *(
            f"{_BLOCK}{stream}_{name}"
            for stream in ("img", "txt")
            for name in ("mlp.net.0.proj", "mlp.net.2", "mod.1")
        ),
        *("img_in", "txt_in", "proj_out", "norm_out.linear"),
        *(f"time_text_embed.timestep_embedder.linear_{number}" for number in (1, 2)),
    ),
    bases=r"qwen",
    blocks={"transformer_blocks": 60},
)
