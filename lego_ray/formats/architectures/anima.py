"""Anima. Source: diffusers' `_convert_non_diffusers_anima_lora_to_diffusers`."""

from __future__ import annotations

from lego_ray.formats.architectures.rows import Architecture, renamed

_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"}
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
            }
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
)
