"""Flux.1, Chroma and HunyuanVideo, whose blocks are alike; and Flux.2.

Source: diffusers' `_convert_kohya_flux_lora_to_diffusers`, `_convert_hunyuan_video_lora_to_diffusers`,
`_convert_xlabs_flux_lora_to_diffusers` and `_convert_non_diffusers_flux2_lora_to_diffusers`; of Chroma's
own modules, which these leave out, `convert_chroma_transformer_checkpoint_to_diffusers`.
"""

from __future__ import annotations

from lego_ray.formats.architectures.row import Row
from lego_ray.formats.architectures.rows import Architecture, renamed

_DOUBLE, _THERE = "double_blocks.#.", "transformer_blocks.#."
_SINGLE, _ALONE = "single_blocks.#.", "single_transformer_blocks.#."
_IMAGE = tuple(f"{_THERE}attn.to_{part}" for part in "qkv")
_TEXT = tuple(f"{_THERE}attn.add_{part}_proj" for part in "qkv")

_ATTENTION = (
    Row(f"{_DOUBLE}img_attn.qkv", _IMAGE),
    Row(f"{_DOUBLE}txt_attn.qkv", _TEXT),
    *renamed(
        {"img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out"}, _DOUBLE, _THERE
    ),
)

# Norms of the queries and keys of an attention, whose weight the authors call a scale.
_NORMS = tuple(
    row
    for here, there in (
        (f"{_DOUBLE}img_attn.norm.", f"{_THERE}attn.norm_"),
        (f"{_DOUBLE}txt_attn.norm.", f"{_THERE}attn.norm_added_"),
        (f"{_SINGLE}norm.", f"{_ALONE}attn.norm_"),
    )
    for name, part in (("query", "q"), ("key", "k"))
    for row in renamed({f"{name}_norm.scale": part}, here, there)
)
# HunyuanVideo's own names.
_NORMS_OF_HUNYUAN = (
    *renamed(
        {
            f"{stream}_attn_{part}_norm": f"attn.norm_{added}{part}"
            for stream, added in (("img", ""), ("txt", "added_"))
            for part in "qk"
        },
        _DOUBLE,
        _THERE,
    ),
    *renamed({f"{part}_norm": f"attn.norm_{part}" for part in "qk"}, _SINGLE, _ALONE),
)

FLUX = Architecture(
    "Flux.1, Chroma or HunyuanVideo",
    (
        *_ATTENTION,
        Row(f"{_DOUBLE}img_mlp.0", (f"{_THERE}ff.net.0.proj",), widths=4),
        Row(f"{_DOUBLE}txt_mlp.0", (f"{_THERE}ff_context.net.0.proj",), widths=4),
        *renamed(
            {
                "img_mlp.2": "ff.net.2",
                "txt_mlp.2": "ff_context.net.2",
                "img_mod.lin": "norm1.linear",
                "txt_mod.lin": "norm1_context.linear",
                # HunyuanVideo's own names
                "img_mlp.fc1": "ff.net.0.proj",
                "img_mlp.fc2": "ff.net.2",
                "txt_mlp.fc1": "ff_context.net.0.proj",
                "txt_mlp.fc2": "ff_context.net.2",
                "img_mod.linear": "norm1.linear",
                "txt_mod.linear": "norm1_context.linear",
                # XLabs'
                "processor.proj_lora1": "attn.to_out.0",
                "processor.proj_lora2": "attn.to_add_out",
            },
            _DOUBLE,
            _THERE,
        ),
        Row(f"{_DOUBLE}processor.qkv_lora1", _IMAGE),
        Row(f"{_DOUBLE}processor.qkv_lora2", _TEXT),
        Row(f"{_SINGLE}processor.qkv_lora", tuple(f"{_ALONE}attn.to_{part}" for part in "qkv")),
        Row(
            f"{_SINGLE}linear1",
            (*(f"{_ALONE}attn.to_{part}" for part in "qkv"), f"{_ALONE}proj_mlp"),
            cut="rest",
            widths=7,
        ),
        *renamed(
            {
                "linear2": "proj_out",
                "modulation.lin": "norm.linear",
                "modulation.linear": "norm.linear",
                "processor.proj_lora": "proj_out",  # XLabs'
            },
            _SINGLE,
            _ALONE,
        ),
        *renamed(
            {
                "img_in": "x_embedder",
                "img_in.proj": "x_embedder.proj",
                "txt_in": "context_embedder",
                "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
                "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
                "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
                "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
                "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
                "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
                "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
                "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
                "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
                "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
                "final_layer.linear": "proj_out",
            }
        ),
        Row("final_layer.adaLN_modulation.1", ("norm_out.linear",), is_swapped=True),
        # Chroma's own; two of them have one name on both sides
        *renamed(
            {
                "in_proj": "in_proj",
                "out_proj": "out_proj",
                "layers.#.in_layer": "layers.#.linear_1",
                "layers.#.out_layer": "layers.#.linear_2",
            },
            "distilled_guidance_layer.",
            "distilled_guidance_layer.",
        ),
    ),
    # HunyuanVideo has 20 and 40, Flux.1 and Chroma 19 and 38.
    bases=r"flux(?!.?2)|chroma|hunyuan",
    norms=(*_NORMS, *_NORMS_OF_HUNYUAN),
    blocks={
        **dict.fromkeys(("double_blocks", "transformer_blocks"), 20),
        **dict.fromkeys(("single_blocks", "single_transformer_blocks"), 40),
    },
)

# Its final_layer.adaLN_modulation.1 is left out: diffusers swaps the halves of a model's and not of a
# LoRA's, so what such a file means is not certain.
FLUX2 = Architecture(
    "Flux.2",
    (
        *_ATTENTION,
        Row(f"{_DOUBLE}img_mlp.0", (f"{_THERE}ff.linear_in",), widths=6),
        Row(f"{_DOUBLE}txt_mlp.0", (f"{_THERE}ff_context.linear_in",), widths=6),
        *renamed(
            {"img_mlp.2": "ff.linear_out", "txt_mlp.2": "ff_context.linear_out"}, _DOUBLE, _THERE
        ),
        Row(f"{_SINGLE}linear1", (f"{_ALONE}attn.to_qkv_mlp_proj",), widths=9),
        *renamed({"linear2": "attn.to_out"}, _SINGLE, _ALONE),
        *renamed(
            {
                "img_in": "x_embedder",
                "txt_in": "context_embedder",
                "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
                "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
                "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
                "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
                "final_layer.linear": "proj_out",
                "single_stream_modulation.lin": "single_stream_modulation.linear",
                "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
                "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
            }
        ),
    ),
    bases=r"flux.?2",
    norms=_NORMS,
    blocks=dict.fromkeys(("double_blocks", "transformer_blocks"), 8),
)
