"""Anima. Source: diffusers' `_convert_non_diffusers_anima_lora_to_diffusers`.

`llm_adapter` of its authors is a part of diffusers' pipeline beside the transformer.
"""

from __future__ import annotations

from lego_ray.formats.architectures.rows import Architecture, renamed

_LINEAR = ("linear_1", "linear_2")
_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"}
# Of the part that makes text conditions, whose blocks both sides name alike.
_TEXT_HERE, _TEXT_THERE = "llm_adapter.", "text_conditioner."
_HERE, _THERE = "blocks.#.", "transformer_blocks.#."

ANIMA = Architecture(
    "Anima",
    (
        *renamed(_PROJECTIONS, f"{_HERE}self_attn.", f"{_THERE}attn1."),
        *renamed(_PROJECTIONS, f"{_HERE}cross_attn.", f"{_THERE}attn2."),
        *renamed(
            {
                "mlp.layer1": "ff.net.0.proj",
                "mlp.layer2": "ff.net.2",
                **{
                    f"adaln_modulation_{part}.{n}": f"norm{number}.linear_{n}"
                    for number, part in enumerate(("self_attn", "cross_attn", "mlp"), 1)
                    for n in (1, 2)
                },
            },
            _HERE,
            _THERE,
        ),
        *renamed(
            {
                "final_layer.adaln_modulation.1": "norm_out.linear_1",
                "final_layer.adaln_modulation.2": "norm_out.linear_2",
                "final_layer.linear": "proj_out",
                "x_embedder.proj.1": "patch_embed.proj",
                **{f"t_embedder.1.{name}": f"time_embed.t_embedder.{name}" for name in _LINEAR},
            }
        ),
        *renamed(
            {
                name: name
                for name in (
                    *("in_proj", "out_proj"),
                    *(f"blocks.#.mlp.{number}" for number in (0, 2)),
                    *(
                        f"blocks.#.{attention}.{part}_proj"
                        for attention in ("self_attn", "cross_attn")
                        for part in "qkvo"
                    ),
                )
            },
            _TEXT_HERE,
            _TEXT_THERE,
        ),
    ),
    bases=r"anima\b",
    norms=tuple(
        row
        for here, there in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for row in renamed(
            {f"{part}_norm": f"norm_{part}" for part in "qk"},
            f"{_HERE}{here}.",
            f"{_THERE}{there}.",
        )
    ),
    beside=("text_conditioner",),
)
