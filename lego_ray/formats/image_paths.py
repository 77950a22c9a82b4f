"""Paths of modules that are an image or video model's, whoever wrote the file.

A lone file whose keys have no prefix, or PEFT's alone, may be of any model. Readers of image models load
it with alpha equal to the rank; of a language model, alpha is in a configuration that is missing. So
such a file is taken only if its paths are those of the blocks of an image model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lego_ray.formats.kinds import parse_kind
from lego_ray.formats.suffixes import parse_suffix

_PREFIX = "base_model.model."

# What the blocks of denoisers are called, with their number where language models have the same word.
_BLOCKS = re.compile(
    r"(?:(?:single_)?transformer_blocks|double_blocks|single_blocks|joint_blocks"
    r"|double_stream_(?:block|layer)s|single_stream_(?:block|layer)s|down_blocks|up_blocks|input_blocks|output_blocks"
    r"|vace_blocks|noise_refiner|context_refiner)\.\d+\."
    r"|mid_block\.|middle_block\."
    # Krea 2
    r"|blocks\.\d+\.attn\.w[qkvo]\b|(?:text_fusion|txtfusion)\.(?:layerwise|refiner)_blocks\.\d+\."
    # ERNIE-Image
    r"|layers\.\d+\.self_attention\.to_\w+"
    # Wan, Mochi, Anima, PixArt; `att` and `ffn.key` are RWKV's, `attn.qkv` and `mlp.fc1` also ViT's
    r"|blocks\.\d+\.(?:attn\.(?:q|kv)\w*_|attn[12]|self_attn|cross_attn|adaln\w*|ffn\.(?:\d|net))"
    # Z-Image, Lumina, Ideogram 4; `self_attn` and `attention.wq` are language models'
    r"|layers\.\d+\.(?:attention\.(?:qkv|out|o|to_\w+)|feed_forward\.w[123]|adaLN_modulation)\b"
)


def is_image_file(keys: Iterable[str]) -> bool:
    """Whether factors without a prefix, or with PEFT's alone, are of an image model's blocks.

    Args:
        keys: The tensor keys, without the names of wrappers.
    """
    factors = (parse_suffix(key) or parse_kind(key) for key in keys)
    return any(f is not None and _BLOCKS.match(f.stem.removeprefix(_PREFIX)) for f in factors)
