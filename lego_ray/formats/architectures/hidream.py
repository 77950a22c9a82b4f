"""HiDream-I1, whose modules diffusers calls as its authors do.

Source: diffusers' `_convert_non_diffusers_hidream_lora_to_diffusers` and its model.
"""

from __future__ import annotations

from lego_ray.formats.architectures.rows import Architecture, same

_DOUBLE, _SINGLE = "double_stream_blocks.#.block.", "single_stream_blocks.#.block."
_ATTENTION = ("to_q", "to_k", "to_v", "to_out")
# Of each feed-forward network; that of the image may be a mixture of experts.
_WEIGHTS = ("w1", "w2", "w3")
_IMAGE = ("ff_i", "ff_i.shared_experts", "ff_i.experts.#")

HIDREAM = Architecture(
    "HiDream",
    same(
        *(
            f"{block}{name}"
            for block in (_DOUBLE, _SINGLE)
            for name in (
                "adaLN_modulation.1",
                *(f"attn1.{part}" for part in _ATTENTION),
                *(f"{ff}.{weight}" for ff in _IMAGE for weight in _WEIGHTS),
            )
        ),
        *(f"{_DOUBLE}attn1.{part}_t" for part in _ATTENTION),
        *(f"{_DOUBLE}ff_t.{weight}" for weight in _WEIGHTS),
        *(f"t_embedder.timestep_embedder.linear_{number}" for number in (1, 2)),
        *(f"p_embedder.pooled_embedder.linear_{number}" for number in (1, 2)),
        *("x_embedder.proj", "caption_projection.#.linear"),
        *("final_layer.linear", "final_layer.adaLN_modulation.1"),
    ),
    bases=r"hidream",
)
