"""LTX-Video and LTX-2, whose blocks diffusers calls as their authors do.

Source: diffusers' `_convert_non_diffusers_ltxv_lora_to_diffusers`,
`_convert_non_diffusers_ltx2_lora_to_diffusers` and, of norms,
`convert_ltx_transformer_checkpoint_to_diffusers`.
"""

from __future__ import annotations

from lego_ray.formats.architectures.rows import Architecture, renamed, same

_BLOCK = "transformer_blocks.#."
_ATTENTIONS = (
    *("attn1", "attn2", "audio_attn1", "audio_attn2"),
    *("audio_to_video_attn", "video_to_audio_attn"),
)
_ADALN = {
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
}
_INSIDE = ("linear", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2")

LTX = Architecture(
    "LTX",
    (
        *same(
            *(
                f"{_BLOCK}{attn}.{name}"
                for attn in _ATTENTIONS
                for name in ("to_q", "to_k", "to_v", "to_out.0")
            ),
            *(
                f"{_BLOCK}{ff}.{name}"
                for ff in ("ff", "audio_ff")
                for name in ("net.0.proj", "net.2")
            ),
            *("proj_out", "audio_proj_out"),
            *(
                f"{each}.linear_{number}"
                for each in ("caption_projection", "audio_caption_projection")
                for number in (1, 2)
            ),
        ),
        *renamed({"patchify_proj": "proj_in", "audio_patchify_proj": "audio_proj_in"}),
        *(
            row
            for here, there in _ADALN.items()
            for row in renamed({name: name for name in _INSIDE}, f"{here}.", f"{there}.")
        ),
    ),
    bases=r"\bltx",
    norms=tuple(
        row
        for attn in _ATTENTIONS
        for row in renamed({f"{part}_norm": f"norm_{part}" for part in "qk"}, f"{_BLOCK}{attn}.")
    ),
)
