"""Stable Diffusion 3 and 3.5. Source: diffusers' `convert_sd3_transformer_checkpoint_to_diffusers`.

`context_block.adaLN_modulation.1` is left out: its halves are swapped in the last block alone, and which
is the last is not to be seen in an adapter.
"""

from __future__ import annotations

from lego_ray.formats.architectures.row import Row
from lego_ray.formats.architectures.rows import Architecture, renamed, same

_HERE, _THERE = "joint_blocks.#.", "transformer_blocks.#."

SD3 = Architecture(
    "Stable Diffusion 3",
    (
        Row(f"{_HERE}x_block.attn.qkv", tuple(f"{_THERE}attn.to_{part}" for part in "qkv")),
        Row(f"{_HERE}x_block.attn2.qkv", tuple(f"{_THERE}attn2.to_{part}" for part in "qkv")),
        Row(
            f"{_HERE}context_block.attn.qkv",
            tuple(f"{_THERE}attn.add_{part}_proj" for part in "qkv"),
        ),
        *renamed(
            {
                "x_block.attn.proj": "attn.to_out.0",
                "x_block.attn2.proj": "attn2.to_out.0",
                "x_block.mlp.fc1": "ff.net.0.proj",
                "x_block.mlp.fc2": "ff.net.2",
                "x_block.adaLN_modulation.1": "norm1.linear",
                "context_block.attn.proj": "attn.to_add_out",
                "context_block.mlp.fc1": "ff_context.net.0.proj",
                "context_block.mlp.fc2": "ff_context.net.2",
            },
            _HERE,
            _THERE,
        ),
        *same("context_embedder"),
        *renamed(
            {
                "x_embedder.proj": "pos_embed.proj",
                "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
                "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
                "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
                "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
                "final_layer.linear": "proj_out",
            }
        ),
        Row("final_layer.adaLN_modulation.1", ("norm_out.linear",), is_swapped=True),
    ),
    bases=r"stable.diffusion.3|\bsd.?3",
    blocks=dict.fromkeys(("joint_blocks", "transformer_blocks"), 38),
    norms=renamed(
        {
            f"{block}.ln_{part}": f"{there}_{part}"
            for block, there in (
                ("x_block.attn", "attn.norm"),
                ("context_block.attn", "attn.norm_added"),
                ("x_block.attn2", "attn2.norm"),
            )
            for part in "qk"
        },
        _HERE,
        _THERE,
    ),
)
