"""The UNets of Stable Diffusion: the names of its authors' code (sgm, LDM) and diffusers'.

Source: diffusers' `_maybe_map_sgm_blocks_to_diffusers` and `_convert_unet_lora_key`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lego_ray.formats.architectures.row import Row
from lego_ray.formats.architectures.rows import Architecture, renamed

_RESNET = {
    "in_layers.2": "conv1",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = (
    "proj_in",
    "proj_out",
    *(
        f"transformer_blocks.#.{attn}.{part}"
        for attn in ("attn1", "attn2")
        for part in ("to_q", "to_k", "to_v", "to_out.0")
    ),
    "transformer_blocks.#.ff.net.0.proj",
    "transformer_blocks.#.ff.net.2",
)
_NORMS_OF_RESNET = {"in_layers.0": "norm1", "out_layers.0": "norm2"}
_NORMS_OF_ATTENTION = ("norm", *(f"transformer_blocks.#.norm{number}" for number in (1, 2, 3)))
_OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
}
# Of each block of diffusers': two resnets on the way down, three on the way up.
_DOWN, _UP = 2, 3


def _rows(
    levels: int,
    down: Collection[int],
    up: Collection[int],
    depth: str = "#",
    *,
    norms: bool = False,
) -> Iterator[Row]:
    """Rows of a UNet.

    Args:
        levels: Number of its blocks each way.
        down: Blocks on the way down that have attention.
        up: Blocks on the way up that have.
        depth: The number of the one transformer block that an attention has, or `#` for any number.
        norms: Whether to give the norms, and not the layers that a LoRA can be on.
    """
    names = [name.replace("#", depth) for name in (_NORMS_OF_ATTENTION if norms else _ATTENTION)]
    inside, resnets = {name: name for name in names}, _NORMS_OF_RESNET if norms else _RESNET
    for block in range(levels):
        for layer in range(_DOWN):
            at = f"input_blocks.{block * (_DOWN + 1) + layer + 1}"
            yield from renamed(resnets, f"{at}.0.", f"down_blocks.{block}.resnets.{layer}.")
            if block in down:
                there = f"down_blocks.{block}.attentions.{layer}."
                yield from renamed(inside, f"{at}.1.", there)
        if block < levels - 1 and not norms:
            at = f"input_blocks.{(block + 1) * (_DOWN + 1)}.0.op"
            yield Row(at, (f"down_blocks.{block}.downsamplers.0.conv",))
        for layer in range(_UP):
            at = f"output_blocks.{block * _UP + layer}"
            yield from renamed(resnets, f"{at}.0.", f"up_blocks.{block}.resnets.{layer}.")
            if block in up:
                there = f"up_blocks.{block}.attentions.{layer}."
                yield from renamed(inside, f"{at}.1.", there)
        if block < levels - 1 and not norms:
            at = f"output_blocks.{block * _UP + _UP - 1}.{2 if block in up else 1}.conv"
            yield Row(at, (f"up_blocks.{block}.upsamplers.0.conv",))
    for number, resnet in ((0, 0), (2, 1)):
        yield from renamed(resnets, f"middle_block.{number}.", f"mid_block.resnets.{resnet}.")
    yield from renamed(inside, "middle_block.1.", "mid_block.attentions.0.")
    yield from renamed({"out.0": "conv_norm_out"} if norms else _OUTSIDE)


SDXL = Architecture(
    "SDXL",
    tuple(_rows(3, (1, 2), (0, 1))),
    component="unet",
    bases=r"xl",
    norms=tuple(_rows(3, (1, 2), (0, 1), norms=True)),
)
SD = Architecture(
    "Stable Diffusion 1 or 2",
    tuple(_rows(4, (0, 1, 2), (1, 2, 3), depth="0")),
    component="unet",
    kohya="diffusers",
    bases=r"stable.diffusion.v?[12]|\bsd.?v?[12]",
    norms=tuple(_rows(4, (0, 1, 2), (1, 2, 3), depth="0", norms=True)),
)
