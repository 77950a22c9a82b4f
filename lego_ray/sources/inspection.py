"""What a file is, adapter or not, as its headers say; and why a merge leaves it out, if it does."""

from __future__ import annotations

import math
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lego_ray.errors import AdapterRefused, redacted
from lego_ray.formats.architectures.known import architectures_of
from lego_ray.formats.base_model import architecture_in
from lego_ray.formats.extra_weights import extra_weights
from lego_ray.formats.layouts import WRITTEN_AS, recognize
from lego_ray.formats.reading import read_adapter
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.records import Record
from lego_ray.sources.adapter_headers import Reading

TAKEN, PASSED_OVER, REFUSED, NO_ADAPTER = "taken", "passed over", "refused", "not an adapter"
_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
_FLOATS = {"F64": "<d", "F32": "<f", "F16": "<e"}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Inspection(Record):
    """What one file or directory is.

    Attributes:
        uri: Where it is; as in a plan, if it is an adapter.
        status: `taken` (by a merge of the place with default options), `passed over` (an earlier
            checkpoint of a training run), `refused`, or `not an adapter`.
        reason: Why a merge does not take it, as a plan says it; None if it does.
        weights: URI of its weights file; None if there is none.
        adapter_id: As in the catalog; None if it is refused or not an adapter.
        revision: Commit of a repository on the Hub; None elsewhere.
        layout: Name of the layout of its names; None if they are of none.
        merged_into: The layout a merge of it is written in; None if it is not taken.
        base_model: Name of the base model, or empty.
        architecture: What its header or configuration calls the model's architecture, or else the models
            whose modules have such names; or empty.
        license: From the model card, or empty.
        tags: From the model card.
        n_sites: Modules with a factor pair; 0 if it is refused before they are known.
        kinds: Number of these by kind: `linear`, `embedding` or `conv`.
        forms: Number of these that are not pairs of factors in the file, by kind: `loha`, `lokr` or `cp`
            (a LoCon with `lora_mid`). Ranks are then those of the plain LoRA that is the same update.
        modules: Each with `module` (its path, with `*` for numbers), `kind`, `d_in`, `d_out`, `sites`,
            `rank_min` and `rank_max`.
        ranks: Each with `rank` and `sites`, by rank.
        scales: Each with `scale` (alpha over rank, or as rsLoRA has it) and `sites`, by scale.
        scales_unread: Sites whose alpha is a tensor of the file that is not read here, as it lies past
            the bytes that came with the header, or is not a finite number.
        dtypes: Each with `dtype`, `tensors` and `bytes`.
        tensors: Each with `tensor` (its name, with `*` for numbers), `dtype`, `shape` and `count`.
        n_tensors: Number of tensors.
        n_params: Number of elements of its factors.
        n_bytes: Size of the weights file.
        extra_weights: Weights beside the low-rank updates, each with `tensor`, `dtype` and `shape`:
            differences, biases, norms, embeddings, and weights that replace others. `--full-weights`
            says what a merge does with them.
        notes: What was guessed, dropped or lies beside it and is not merged, in words.
    """

    uri: str
    status: str
    reason: str | None = None
    weights: str | None = None
    adapter_id: str | None = None
    revision: str | None = None
    layout: str | None = None
    merged_into: str | None = None
    base_model: str = ""
    architecture: str = ""
    license: str = ""
    tags: Mapping[str, str]
    n_sites: int = 0
    kinds: Mapping[str, int]
    forms: Mapping[str, int] = field(default_factory=dict)
    modules: tuple[Mapping[str, Any], ...] = ()
    ranks: tuple[Mapping[str, Any], ...] = ()
    scales: tuple[Mapping[str, Any], ...] = ()
    scales_unread: int = 0
    dtypes: tuple[Mapping[str, Any], ...] = ()
    tensors: tuple[Mapping[str, Any], ...] = ()
    n_tensors: int = 0
    n_params: int = 0
    n_bytes: int = 0
    extra_weights: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status}: {self.uri}>"


def inspection_of(reading: Reading) -> Inspection:
    """What was read of a place, in figures; whether it is passed over is another's to say.

    Args:
        reading: What was read.
    """
    found, result = reading.found, reading.result
    spans = reading.table.spans if reading.table else ()
    record = result if isinstance(result, AdapterRecord) else _as_if_taken(reading)
    weights = found.weights
    status = NO_ADAPTER if result is None else REFUSED
    return Inspection(
        uri=_uri_of(reading),
        status=TAKEN if isinstance(result, AdapterRecord) else status,
        reason=reading.why if result is None else getattr(result, "reason", None),
        weights=found.uri_of(weights) if weights is not None else None,
        adapter_id=result.adapter_id if isinstance(result, AdapterRecord) else None,
        revision=found.store.revision or None,
        layout=record.format if record else _layout_of(reading),
        merged_into=WRITTEN_AS[result.format] if isinstance(result, AdapterRecord) else None,
        base_model=record.base_model if record else reading.base_model,
        architecture=_architecture_of(reading, record.sites if record else ()),
        license=redacted(reading.headers.license) if reading.headers else "",
        tags=reading.tags,
        **(_sites(record.sites, reading) if record else {"kinds": {}}),
        **_tensors(spans),
        n_params=record.n_params if record else 0,
        n_bytes=weights.size if weights is not None else 0,
        extra_weights=_extra(reading),
        notes=result.notes if isinstance(result, AdapterRecord) else (),
    )


def _uri_of(reading: Reading) -> str:
    if reading.result is not None:
        return reading.result.uri
    weights = reading.found.weights
    return reading.found.uri_of(weights) if weights is not None else reading.found.uri


def _as_if_taken(reading: Reading) -> AdapterRecord | None:
    """The adapter that it would be without what it is refused for, if that is extra weights alone."""
    if reading.headers is None:
        return None
    extra = set(extra_weights((s.name for s in reading.headers.spans), reading.fields))
    spans = tuple(span for span in reading.headers.spans if span.name not in extra)
    try:
        return read_adapter(replace(reading.headers, spans=spans), "drop")
    except AdapterRefused:
        return None


def _extra(reading: Reading) -> tuple[Mapping[str, Any], ...]:
    """Weights that are not low-rank, whether or not the adapter is taken."""
    if reading.table is None or reading.result is None:
        return ()
    spans = {span.name: span for span in reading.table.spans}
    found = (spans[name] for name in extra_weights(spans, reading.fields))
    return tuple({"tensor": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in found)


def _layout_of(reading: Reading) -> str | None:
    """The layout that its keys, or else its configuration, are of."""
    found = recognize(span.name for span in reading.table.spans) if reading.table else None
    if found is not None:
        return found.name
    fields = reading.fields
    if "peft_type" in fields:
        return "peft"
    return "mlx" if fields.keys() & {"fine_tune_type", "lora_parameters"} else None


def _architecture_of(reading: Reading, sites: Iterable[SiteFactors]) -> str:
    """What its header or configuration says, or else what the names of its modules show."""
    metadata = reading.table.metadata if reading.table else {}
    said = architecture_in(metadata, reading.fields)
    return redacted(said) or " or ".join(architectures_of(sites))


def _sites(sites: Iterable[SiteFactors], reading: Reading) -> dict[str, Any]:
    groups: dict[tuple[str, str, int, int], list[int]] = defaultdict(list)
    ranks: Counter[int] = Counter()
    scales: Counter[float] = Counter()
    forms: Counter[str] = Counter()
    unread = 0
    for site in sites:
        if site.expansion is not None:
            forms[site.expansion.form] += 1
        groups[pattern_of(site.site), site.kind, site.d_in, site.d_out].append(site.rank)
        ranks[site.rank] += 1
        scale = _scale_of(site, reading.table.first if reading.table else b"")
        if scale is None:
            unread += 1
        else:
            scales[scale] += 1
    kinds: Counter[str] = Counter()
    for (_, kind, _, _), members in groups.items():
        kinds[kind] += len(members)
    return {
        "n_sites": ranks.total(),
        "kinds": dict(sorted(kinds.items())),
        "forms": dict(sorted(forms.items())),
        "modules": tuple(
            {
                "module": name,
                "kind": kind,
                "d_in": d_in,
                "d_out": d_out,
                "sites": len(members),
                "rank_min": min(members),
                "rank_max": max(members),
            }
            for (name, kind, d_in, d_out), members in sorted(groups.items())
        ),
        "ranks": tuple({"rank": rank, "sites": n} for rank, n in sorted(ranks.items())),
        "scales": tuple({"scale": scale, "sites": n} for scale, n in sorted(scales.items())),
        "scales_unread": unread,
    }


def _scale_of(site: SiteFactors, first: bytes) -> float | None:
    """A site's scale; None if its alpha is a tensor past the bytes that were read for the header."""
    if site.alpha is None:
        return site.scaling
    data, dtype = first[site.alpha.start : site.alpha.end], site.alpha.dtype
    if dtype == "BF16":  # the upper half of a float32
        data, dtype = b"\0\0" + data, "F32"
    if dtype not in _FLOATS or len(data) != struct.calcsize(_FLOATS[dtype]):
        return None
    (value,) = struct.unpack(_FLOATS[dtype], data)
    # What is no number is refused when a merge reads it; JSON has no word for it.
    return value / site.divisor if math.isfinite(value) else None


def _tensors(spans: Iterable[TensorSpan]) -> dict[str, Any]:
    dtypes: dict[str, list[int]] = {}
    alike: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    for span in spans:
        dtypes.setdefault(span.dtype, []).append(span.end - span.start)
        alike[pattern_of(span.name), span.dtype, span.shape] += 1
    return {
        "n_tensors": alike.total(),
        "dtypes": tuple(
            {"dtype": dtype, "tensors": len(sizes), "bytes": sum(sizes)}
            for dtype, sizes in sorted(dtypes.items())
        ),
        "tensors": tuple(
            {"tensor": name, "dtype": dtype, "shape": list(shape), "count": count}
            for (name, dtype, shape), count in sorted(alike.items())
        ),
    }


def pattern_of(name: str) -> str:
    """A module's or tensor's name with `*` for the numbers in it.

    Args:
        name: Parts of it are set apart by dots or underscores.
    """
    return _NUMBER.sub("*", name)
