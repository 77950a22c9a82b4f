"""mlx-lm's layout: `adapters.safetensors`, factors transposed, one scale in `adapter_config.json`.

Module paths are those of the Hugging Face model, so a merge of such adapters is written as PEFT's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.dora import rescaled
from lego_ray.formats.factors import (
    RESAVE,
    FactorKey,
    Pair,
    check_dtype,
    pair,
    refuse_unknown,
    site_factors,
)
from lego_ray.formats.forms import Form, other_than_0, read_as, sentence_of
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.peft_base import note_of
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.refusals import REFUSED_FIELDS, check_tensors
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.wrappers import by_plain_key

_FACTOR = re.compile(r"(?P<site>.+)\.lora_(?P<half>[ab])")
_MAGNITUDE = re.compile(r"(?P<site>.+)\.m")

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

_FIX = "Write the values of training into the file."

# What models call their embeddings, which nothing else in the file tells from linear layers.
_EMBEDDINGS = ("embed_tokens", "embed_in", "embeddings", "tok_embeddings", "word_embeddings", "wte")


_Positive = Annotated[float, Field(gt=0, lt=1e30)]


class _Scale(Form):
    scale: Annotated[float, Field(allow_inf_nan=False), AfterValidator(other_than_0)]


class _Config(Form):
    lora_parameters: _Scale


class _ScaleBefore(_Scale):
    rank: _Positive = 0
    alpha: _Positive = 0

    @property
    def alpha_over_rank(self) -> float:
        """What mlx-lm of April to June 2024 multiplied by as well; 1 without alpha."""
        return self.alpha / self.rank if self.alpha else 1.0

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if self.alpha and not self.rank:
            raise ValueError("expected a rank beside alpha")
        return self


class _ConfigBefore(Form):
    lora_parameters: _ScaleBefore


def read_adapter(headers: AdapterHeaders, *, with_base: bool = False) -> AdapterRecord:
    """Describes an mlx-lm LoRA from its headers, having checked all that headers can show.

    The update is `dW = scale * lora_b^T lora_a^T`, whatever the rank. A DoRA makes `m / |V| V` of
    V = W + dW, row by row as the model stores it (mlx-lm's `tuner/dora.py`).

    Args:
        headers: The adapter's; with its configuration.
        with_base: Whether to take DoRA too, whose update is computed with the base model.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA (full weights, experts packed in one tensor).
        RankMismatch: If the ranks of a site's factors differ.
        MalformedAdapter: If a file is damaged, incomplete, or contradicts itself.
    """
    where = headers.weights
    place = f"{headers.uri.rstrip('/')}/{CONFIG_NAME}"
    fields = parse_object(headers.config or b"", place)
    check_layout(fields, (), place)
    check_config(fields, place, with_base=with_base)
    scaling, note = _scaling(fields, place)
    spans = by_plain_key(headers.spans, where)
    names = list(spans)
    check_layout(fields, names, where)
    check_tensors(names, where)
    factors: list[tuple[FactorKey, TensorSpan]] = []
    magnitudes: dict[str, TensorSpan] = {}
    unknown: list[str] = []
    for name, span in spans.items():
        if found := _FACTOR.fullmatch(name):
            is_embedding = found["site"].rpartition(".")[2] in _EMBEDDINGS
            factors.append((FactorKey(found["site"], found["half"].upper(), is_embedding), span))
        elif with_base and (found := _MAGNITUDE.fullmatch(name)):
            magnitudes[found["site"]] = span
        elif _MAGNITUDE.fullmatch(name):
            refusal = REFUSED_FIELDS["use_dora"]
            raise UnsupportedAdapter(where, f"{span.name}: {refusal.why}", refusal.hint)
        else:
            unknown.append(span.name)
    refuse_unknown(unknown, where)
    pairs = pair(factors, where)
    for each in pairs:
        _check_not_experts(each, where)
    sites = [site_factors(each, scaling=scaling, where=where, transposed=True) for each in pairs]
    is_dora = bool(magnitudes) or fields.get("fine_tune_type") == "dora"
    if is_dora:
        sites = _rescaled(sites, magnitudes, where)
    notes = ((note,) if note else ()) + (note_of(sites) if is_dora else ())
    model = fields.get("model")
    return headers.record(
        format="mlx",
        base_model=model if isinstance(model, str) else "",
        sites=tuple(sites),
        notes=notes,
        config={"task_type": "CAUSAL_LM", "fan_in_fan_out": False, "bias": "none"},
    )


def _rescaled(
    sites: Sequence[SiteFactors], magnitudes: Mapping[str, TensorSpan], where: str
) -> list[SiteFactors]:
    """The sites of a DoRA. Of an embedding the rows are those of the tokens, which are A's columns."""
    stray = sorted(magnitudes.keys() - {site.site for site in sites})
    if stray:
        problem = f"it has {magnitudes[stray[0]].name} and no factors beside it"
        raise MalformedAdapter(where, problem, RESAVE)
    out = []
    for site in sites:
        span = magnitudes.get(site.site)
        if span is None:
            raise MalformedAdapter(where, f"{site.site} has no m, which a DoRA has", RESAVE)
        check_dtype(span, where)
        count = site.d_in if site.kind == "embedding" else site.d_out
        if span.shape != (count,):
            problem = f"{span.name} has shape {list(span.shape)}, and {site.site} needs [{count}]"
            raise MalformedAdapter(where, problem, RESAVE)
        out.append(rescaled(site, span, count if site.kind == "embedding" else 0))
    return out


def check_config(fields: Mapping[str, object], where: str, *, with_base: bool = False) -> None:
    """Passes an mlx-lm configuration that promises a plain LoRA.

    Args:
        fields: The configuration, parsed.
        where: The configuration file, for the error.
        with_base: Whether a DoRA passes too.

    Raises:
        UnsupportedAdapter: Otherwise.
    """
    kind = fields.get("fine_tune_type", "lora")
    if kind == "lora" or (kind == "dora" and with_base):
        return
    known = REFUSED_FIELDS["use_dora"] if kind == "dora" else None
    why = known.why if known else "only LoRA adapters are merged"
    hint = known.hint if known else "Train it again with --fine-tune-type lora, or leave it out."
    raise UnsupportedAdapter(where, f"fine_tune_type is {kind}: {why}", hint)


def _scaling(fields: Mapping[str, object], place: str) -> tuple[float, str]:
    """The scale of the updates, and a note on how it was found; empty where that is plain."""

    def refused(faults: tuple[str, ...]) -> MalformedAdapter:
        return MalformedAdapter(place, sentence_of(faults), _FIX)

    if _is_later(fields):
        parameters = fields.get("lora_parameters")
        has_alpha = isinstance(parameters, dict) and "alpha" in parameters
        scale = read_as(_Config, fields, refused).lora_parameters.scale
        return scale, _SCALE_ALONE if has_alpha else ""
    found = read_as(_ConfigBefore, fields, refused).lora_parameters
    return found.scale * found.alpha_over_rank, _EFFECTIVE if found.alpha_over_rank != 1 else ""


def _is_later(fields: Mapping[str, object]) -> bool:
    """Whether an mlx-lm since September 2024 wrote the configuration.

    The defaults had an alpha until April 2025, and nothing read it since 2 June 2024.
    """
    return _BEFORE not in fields and any(name in fields for name in _SINCE)


def _check_not_experts(each: Pair, where: str) -> None:
    # Releases differ in whether A keeps the experts on an axis of their own, as B does.
    if packed := next((span for span in (each.b, each.a) if len(span.shape) == 3), None):
        problem = f"{each.site} packs {packed.shape[0]} experts in one tensor"
        hint = "Leave it out, or train it again without the experts among lora_parameters.keys."
        raise UnsupportedAdapter(where, problem, hint)
