"""mlx-lm's layout: `adapters.safetensors`, factors transposed, one scale in `adapter_config.json`.

Module paths are those of the Hugging Face model, so a merge of such adapters is written as PEFT's.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.factors import FactorKey, Pair, pair, refuse_unknown, site_factors
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.record import AdapterHeaders, AdapterRecord, TensorSpan
from lego_ray.formats.refusals import REFUSED_FIELDS, check_tensors
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.wrappers import by_plain_key

# No alpha or rank is as large; a whole number in JSON may have any number of digits.
_LARGEST = 1e30

_FACTOR = re.compile(r"(?P<site>.+)\.lora_(?P<half>[ab])")
_MAGNITUDE = re.compile(r".+\.m")

_EFFECTIVE = (
    "lora_parameters has alpha beside scale: taken as mlx-lm of April to June 2024 did, scale times "
    "alpha over rank; releases from then on leave alpha out of account, and which of them wrote this "
    "file cannot be told. If it was a later one, remove alpha from adapter_config.json"
)
_SCALE_ALONE = (
    "lora_parameters has alpha beside scale, and alpha is left out of account, as by the mlx-lm since "
    "September 2024 that wrote the file"
)
# Fields of configurations: until September 2024, and since.
_BEFORE, _SINCE = "lora_layers", ("fine_tune_type", "num_layers")

# What models call their embeddings, which nothing else in the file tells from linear layers.
_EMBEDDINGS = ("embed_tokens", "embed_in", "embeddings", "tok_embeddings", "word_embeddings", "wte")


def read_adapter(headers: AdapterHeaders) -> AdapterRecord:
    """Describes an mlx-lm LoRA from its headers, having checked all that headers can show.

    The update is `dW = scale * lora_b^T lora_a^T`, whatever the rank.

    Args:
        headers: The adapter's; with its configuration.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA (DoRA, full weights, experts packed in one tensor).
        RankMismatch: If the ranks of a site's factors differ.
        MalformedAdapter: If a file is damaged, incomplete, or contradicts itself.
    """
    where = headers.weights
    place = f"{headers.uri.rstrip('/')}/{CONFIG_NAME}"
    fields = parse_object(headers.config or b"", place)
    check_layout(fields, (), place)
    check_config(fields, place)
    scale, note = _scale(fields, place)
    spans = by_plain_key(headers.spans, where)
    names = list(spans)
    check_layout(fields, names, where)
    check_tensors(names, where)
    factors: list[tuple[FactorKey, TensorSpan]] = []
    unknown: list[str] = []
    for name, span in spans.items():
        if found := _FACTOR.fullmatch(name):
            is_embedding = found["site"].rpartition(".")[2] in _EMBEDDINGS
            factors.append((FactorKey(found["site"], found["half"].upper(), is_embedding), span))
        elif _MAGNITUDE.fullmatch(name):
            refusal = REFUSED_FIELDS["use_dora"]
            raise UnsupportedAdapter(where, f"{span.name}: {refusal.why}", refusal.hint)
        else:
            unknown.append(span.name)
    refuse_unknown(unknown, where)
    pairs = pair(factors, where)
    for each in pairs:
        _check_not_experts(each, where)
    model = fields.get("model")
    return headers.record(
        format="mlx",
        base_model=model if isinstance(model, str) else "",
        sites=tuple(
            site_factors(each, scaling=scale, where=where, transposed=True) for each in pairs
        ),
        notes=(note,) if note else (),
        config={"task_type": "CAUSAL_LM", "fan_in_fan_out": False, "bias": "none"},
    )


def check_config(fields: Mapping[str, object], where: str) -> None:
    """Passes an mlx-lm configuration that promises a plain LoRA.

    Args:
        fields: The configuration, parsed.
        where: The configuration file, for the error.

    Raises:
        UnsupportedAdapter: Otherwise.
    """
    kind = fields.get("fine_tune_type", "lora")
    if kind == "lora":
        return
    known = REFUSED_FIELDS["use_dora"] if kind == "dora" else None
    why = known.why if known else "only LoRA adapters are merged"
    hint = known.hint if known else "Train it again with --fine-tune-type lora, or leave it out."
    raise UnsupportedAdapter(where, f"fine_tune_type is {kind}: {why}", hint)


def _scale(fields: Mapping[str, object], where: str) -> tuple[float, str]:
    """The scale of the updates, and a note on how it was made out; empty where that is plain."""
    parameters = fields.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    value = math.nan
    if isinstance(scale, int | float) and not isinstance(scale, bool):
        with contextlib.suppress(OverflowError):  # a whole number may have any number of digits
            value = float(scale)
    if not math.isfinite(value) or value == 0:
        problem = f"lora_parameters gives scale {scale!r}, expected a finite number other than 0"
        raise MalformedAdapter(where, problem, "Write the scale of training into the file.")
    if isinstance(parameters, dict) and "alpha" in parameters and _is_later(fields):
        return value, _SCALE_ALONE
    more = _alpha_over_rank(parameters, where)
    return value * more, _EFFECTIVE if more != 1 else ""


def _is_later(fields: Mapping[str, object]) -> bool:
    """Whether an mlx-lm since September 2024 wrote the configuration.

    The defaults had an alpha until April 2025, and nothing read it since 2 June 2024.
    """
    return _BEFORE not in fields and any(name in fields for name in _SINCE)


def _alpha_over_rank(parameters: object, where: str) -> float:
    """What mlx-lm of April to June 2024 multiplied by besides; 1 without alpha."""
    if not isinstance(parameters, dict) or "alpha" not in parameters:
        return 1.0
    alpha, rank = parameters["alpha"], parameters.get("rank")
    numbers = [n for n in (alpha, rank) if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) != 2 or not all(0 < n < _LARGEST for n in numbers):
        problem = (
            f"lora_parameters gives alpha {alpha!r} and rank {rank!r}, expected two numbers above 0"
        )
        raise MalformedAdapter(where, problem, "Write those of training into the file.")
    return float(numbers[0]) / float(numbers[1])


def _check_not_experts(each: Pair, where: str) -> None:
    if len(each.a.shape) == 3:
        problem = f"{each.site} packs {each.a.shape[0]} experts in one tensor"
        hint = "Leave it out, or train it again without the experts among lora_parameters.keys."
        raise UnsupportedAdapter(where, problem, hint)
