"""Z-Image and Lumina 2, whose own names are alike and diffusers' are not.

Source: diffusers' `_convert_non_diffusers_z_image_lora_to_diffusers`,
`convert_z_image_transformer_checkpoint_to_diffusers`, `_convert_non_diffusers_lumina2_lora_to_diffusers`
and, of norms, `convert_lumina2_to_diffusers`.
"""

from __future__ import annotations

from lego_ray.formats.architectures.row import Row
from lego_ray.formats.architectures.rows import Architecture, renamed, same

# The blocks that refine the text have no modulation.
_OF_TEXT = "context_refiner.#."
_NORMS = ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
_CONTAINERS = ("layers.#.", "noise_refiner.#.", _OF_TEXT)

Z_IMAGE = Architecture(
    "Z-Image",
    (
        *(
            row
            for each in _CONTAINERS
            for row in (
                Row(f"{each}attention.qkv", tuple(f"{each}attention.to_{part}" for part in "qkv")),
                *renamed({"attention.out": "attention.to_out.0"}, each),
                *same(*(f"{each}feed_forward.w{number}" for number in (1, 2, 3))),
                *(same(f"{each}adaLN_modulation.0") if each != _OF_TEXT else ()),
            )
        ),
        *same("cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"),
        *renamed(
            {
                "x_embedder": "all_x_embedder.2-1",
                "final_layer.linear": "all_final_layer.2-1.linear",
                "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
            }
        ),
    ),
    bases=r"z.?image",
    norms=(
        *(
            row
            for each in _CONTAINERS
            for row in (
                *renamed({f"{part}_norm": f"norm_{part}" for part in "qk"}, f"{each}attention."),
                *same(*(f"{each}{name}" for name in _NORMS)),
            )
        ),
        *same("cap_embedder.0"),
    ),
)

LUMINA2 = Architecture(
    "Lumina 2",
    tuple(
        row
        for each in _CONTAINERS
        for row in (
            Row(
                f"{each}attention.qkv",
                tuple(f"{each}attn.to_{part}" for part in "qkv"),
                cut="heads",
            ),
            *renamed(
                {
                    "attention.out": "attn.to_out.0",
                    **{f"feed_forward.w{n}": f"feed_forward.linear_{n}" for n in (1, 2, 3)},
                },
                each,
            ),
            *(renamed({"adaLN_modulation.1": "norm1.linear"}, each) if each != _OF_TEXT else ()),
        )
    ),
    bases=r"lumina",
    norms=tuple(
        row
        for each in _CONTAINERS
        for row in (
            *renamed(
                {f"{part}_norm": f"norm_{part}" for part in "qk"},
                f"{each}attention.",
                f"{each}attn.",
            ),
            *renamed(
                {
                    "attention_norm1": "norm1" if each == _OF_TEXT else "norm1.norm",
                    "attention_norm2": "norm2",
                    "ffn_norm1": "ffn_norm1",
                    "ffn_norm2": "ffn_norm2",
                },
                each,
            ),
        )
    ),
)
