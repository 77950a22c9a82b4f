"""Ideogram 4, some of whose names Z-Image and Lumina 2 have too; its widths are its own.

Source: diffusers' `_convert_non_diffusers_ideogram4_lora_to_diffusers`, `Ideogram4Transformer2DModel`.
The rows of `qkv` are q, k and v one after another, as ai-toolkit, musubi-tuner and OneTrainer have them.
"""

from __future__ import annotations

from lego_ray.formats.architectures.row import Row
from lego_ray.formats.architectures.rows import Architecture, same

_HIDDEN, _INNER, _MODULATION = 4608, 12288, 512
_BLOCK = "layers.#."

IDEOGRAM4 = Architecture(
    "Ideogram 4",
    (
        Row(
            f"{_BLOCK}attention.qkv",
            tuple(f"{_BLOCK}attention.to_{part}" for part in "qkv"),
            d_in=_HIDDEN,
        ),
        Row(f"{_BLOCK}attention.o", (f"{_BLOCK}attention.to_out.0",), d_in=_HIDDEN),
        *(
            Row(f"{_BLOCK}{name}", (f"{_BLOCK}{name}",), d_in=d_in)
            for name, d_in in {
                "feed_forward.w1": _HIDDEN,
                "feed_forward.w2": _INNER,
                "feed_forward.w3": _HIDDEN,
                "adaln_modulation": _MODULATION,
            }.items()
        ),
        *same(
            *("input_proj", "llm_cond_proj", "t_embedding.mlp_in", "t_embedding.mlp_out"),
            *("adaln_proj", "final_layer.linear", "final_layer.adaln_modulation"),
        ),
    ),
    bases=r"ideogram",
    blocks={"layers": 34},
    norms=tuple(
        row
        for row in same(
            *(f"{_BLOCK}attention.norm_{part}" for part in "qk"),
            *(f"{_BLOCK}{of}_norm{n}" for of in ("attention", "ffn") for n in (1, 2)),
            "llm_cond_norm",
        )
    ),
)
