"""From headers to a record, whichever layout it is: each has a module of its name in this room."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lego_ray.errors import UnsupportedAdapter
from lego_ray.formats.differences import split_end
from lego_ray.formats.layouts import check_layout, recognize
from lego_ray.formats.lone import FullWeights, without_factors
from lego_ray.formats.lone_config import is_lone_beside
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.refusals import check_tensors
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.wrappers import check_in_doubt, wrappers_in

_LORA = re.compile("lora", re.IGNORECASE)
# Modules of CLIP and T5, without the part of the pipeline.
_TEXT_ENCODER = re.compile(
    r"(?:text_model\.)?encoder\.(?:layers\.\d+\.(?:self_attn|mlp)\.|block\.\d+\.layer\.\d+\.)"
)
_WHICH_ENCODER = (
    "Let its keys begin with the name of the encoder that it was trained on, such as text_encoder. for "
    "the first and text_encoder_2. for the second: diffusers' save_lora_weights does that. If PEFT "
    "wrote it, copy adapter_config.json beside it."
)


def read_adapter(
    headers: AdapterHeaders,
    full_weights: FullWeights = "refuse",
    *,
    with_base: bool = False,
    initial: AdapterRecord | None = None,
) -> AdapterRecord:
    """Describes an adapter from its headers, having checked all that headers can show.

    Args:
        headers: The adapter's.
        full_weights: What to do with tensors that are not low-rank; see `peft.read_adapter`.
        with_base: As for `peft.read_adapter`.
        initial: As for `peft.read_adapter`; other layouts have none.

    Raises:
        AdapterRefused: If it cannot be merged; says why and what to do.
    """
    names = [span.name for span in headers.spans]
    if headers.config is None:
        layout = check_layout(None, names, headers.weights)
    else:
        where = f"{headers.uri.rstrip('/')}/{CONFIG_NAME}"
        config = parse_object(headers.config, where)
        if is_lone_beside(config, names):
            layout = check_layout(None, names, headers.weights)
        else:
            layout = check_layout(config, (), where)
    read = layout.module.read_adapter
    more: dict[str, Any] = {"with_base": True} if with_base and layout.has_base_kinds else {}
    if initial is not None and layout.name == "peft":
        more["initial"] = initial
    record: AdapterRecord = (
        read(headers, full_weights, **more) if layout.has_full_weights else read(headers, **more)
    )
    check_in_doubt((factors.site for factors in record.sites), headers.weights)
    note = wrappers_in(headers.spans)
    return replace(record, notes=(*record.notes, note)) if note else record


def is_adapter(names: Iterable[str], where: str) -> bool:
    """Whether a lone weights file is an adapter in a layout that is known, read or not.

    Args:
        names: Its tensor keys.
        where: The file, for the error.

    Returns:
        False for anything that is no adapter at all, such as a model's own weights.

    Raises:
        UnsupportedAdapter: If it is an adapter of a kind or layout that cannot be named otherwise.
    """
    names = list(names)
    if recognize(names) is not None:
        return True
    if differences := [name for name in names if split_end(name)]:
        raise without_factors(differences, where)
    check_tensors(names, where)
    found = next(filter(_LORA.search, names), None)
    if found is None:
        return False
    problem = f"its keys look like a LoRA's, and of no layout known here (such as {found})"
    if _TEXT_ENCODER.match(found):
        problem += ", which may be of any text encoder of a pipeline"
        raise UnsupportedAdapter(where, problem, _WHICH_ENCODER)
    hint = (
        "If PEFT wrote it, copy adapter_config.json beside it; if diffusers did, save it with the "
        "pipeline's save_lora_weights, whose keys name the component. If it is of another image model, "
        "let its keys begin with diffusion_model. instead."
    )
    raise UnsupportedAdapter(where, problem, hint)
