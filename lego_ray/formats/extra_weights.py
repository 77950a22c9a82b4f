"""Tensors of an adapter's file beside its updates: whole weights, norms, biases, embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lego_ray.formats.differences import split_end
from lego_ray.formats.dora import split_magnitude
from lego_ray.formats.kinds import parse_kind
from lego_ray.formats.layouts import LAYOUTS
from lego_ray.formats.peft_adalora import KIND as ADALORA
from lego_ray.formats.peft_keys import PREFIX, is_training_only
from lego_ray.formats.peft_lycoris import TYPES as LYCORIS
from lego_ray.formats.refusals import OF_METHODS
from lego_ray.formats.suffixes import ALPHA, parse_suffix
from lego_ray.formats.wrappers import unwrapped

# Factors with or without an adapter's name; a bias of a factor is none.
_FACTOR = re.compile(r".+\.lora_(?:embedding_)?[ABE](?:\.(?!bias$)[^.]+)?(?:\.weight)?$")
# Magnitudes of mlx-lm's DoRA.
_MAGNITUDE = re.compile(r".+\.m$")
# Layouts whose keys are neither read nor those of a pair of `suffixes`.
_OTHERS = tuple(
    layout.key for layout in LAYOUTS if layout.name in ("torchtune", "megatron", "mlx", "mlx-vlm")
)
# How PEFT's methods that are not LoRA begin their tensors' names (PEFT 0.21 has a table of them).
_OF_PEFT = re.compile(
    r"\.(?:adamss|adaption_prompt|beft|bone|c3a|deft|delora|fourierft|frod|glora|gralora|hira|hra|lily|"
    r"ln_tuning|miss|osf|peanut|poly|psoft|pvera|randlora|road|shadow|shira|supertuning|tinylora|"
    r"unilora|vblora|vera|waveft|xlora)_"
)
# Methods of PEFT whose tensors the patterns above know.
_LOW_RANK = ("LORA", ADALORA, *LYCORIS)


def extra_weights(
    names: Iterable[str], config: Mapping[str, object] | None = None
) -> tuple[str, ...]:
    """Tensors of a file that are weights beside the update of its method, in their order.

    These are whole weights, differences of weights, biases, norms and embeddings. Factors, alphas,
    magnitudes of DoRA and the tensors of methods that are refused are not. The names alone decide, so
    that the answer is the same for adapters that are refused.

    Args:
        names: Keys of the file's tensors.
        config: PEFT's configuration beside the file; None if there is none.
    """
    plain = {name: unwrapped(name) for name in names}
    # IA3 of LyCORIS: the weight of a module whose `.on_input` says what it multiplies.
    scaled = {key.removesuffix(".on_input") for key in plain.values() if key.endswith(".on_input")}
    is_other = config is not None and config.get("peft_type", "LORA") not in _LOW_RANK
    return tuple(
        name
        for name, key in plain.items()
        if not _is_of_update(key)
        and key.removesuffix(".weight") not in scaled
        and not (is_other and (_OF_PEFT.search(key) or not key.startswith(PREFIX)))
    )


def _is_of_update(key: str) -> bool:
    """Whether a tensor is a part of what a method computes an update from."""
    if split_end(key):
        return False
    return bool(
        key.endswith(ALPHA)
        or parse_suffix(key)
        or _FACTOR.match(key)
        or parse_kind(key)
        or split_magnitude(key)
        or _MAGNITUDE.match(key)
        or is_training_only(key)
        or OF_METHODS.search(key)
        or any(pattern.match(key) for pattern in _OTHERS)
    )
