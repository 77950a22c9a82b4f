"""What PEFT trains beside factors and `--full-weights keep:NAME` takes over: biases and rows of tokens.

With `lora_bias` each B has a bias, which PEFT multiplies by the scaling as it does B A. It is stored for
a scaling of 1 here. Rows of `trainable_token_indices` replace those of the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from lego_ray.formats.peft_config import PeftConfig
from lego_ray.formats.peft_keys import PREFIX
from lego_ray.formats.refusals import DROPPABLE
from lego_ray.formats.wrappers import named_like, unwrapped
from lego_ray.lazy import Tensor

BIAS, TOKENS = "lora_bias", "trainable_token_indices"
_BIAS = re.compile(r"(?P<site>.+)\.lora_B(?:\.[^.]+)?\.bias")


def beside_factors(names: Iterable[str], fields: Mapping[str, object] | None = None) -> list[str]:
    """Those of tensor keys that are biases of B or rows of tokens.

    Args:
        names: Keys of a file.
        fields: Its configuration, by which PEFT loads them; None to go by the keys alone.
    """
    keys = [key for field, (key, _) in DROPPABLE.items() if fields is None or fields.get(field)]
    return [name for name in names if any(key.search(name) for key in keys)]


def site_of_bias(key: str) -> str:
    """The site whose B a bias is of; empty for any other key."""
    found = _BIAS.fullmatch(unwrapped(key).removeprefix(PREFIX))
    return found["site"] if found else ""


def bias_key(site: str) -> str:
    """The key PEFT saves the bias of B under."""
    return f"{PREFIX}{site}.lora_B.bias"


def noted_of(
    names: Iterable[str], fields: Mapping[str, object], settings: PeftConfig
) -> dict[str, object]:
    """What a record's configuration says of them, as JSON values; empty where there is none.

    Args:
        names: Keys of those that are kept.
        fields: The adapter's configuration.
        settings: The same, as it was read.
    """
    names = list(names)
    scalings = {n: settings.scaling_of(site) for n in names if (site := site_of_bias(n))}
    noted: dict[str, object] = {BIAS: scalings} if scalings else {}
    if len(scalings) < len(names):
        noted[TOKENS] = fields.get(TOKENS)
    return noted


def placed(key: str, sites: Collection[str]) -> str:
    """The key of a bias in a file whose LoRA is on these sites; empty for any other key.

    Args:
        key: Its key in the file it comes from.
        sites: Every site of the output.
    """
    site = site_of_bias(key)
    return bias_key(named_like(site, sites)) if site else ""


def scaled(key: str, tensor: Tensor, noted: Mapping[str, object]) -> Tensor:
    """A kept tensor as it is stored: a bias times its scaling, anything else as it is.

    Args:
        key: Its key in the file it comes from.
        tensor: It.
        noted: What the record's configuration says.
    """
    scalings = noted.get(BIAS)
    scaling = scalings.get(key, 1.0) if isinstance(scalings, Mapping) else 1.0
    return tensor if scaling == 1 else tensor.float() * scaling
