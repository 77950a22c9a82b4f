"""PEFT's layout: a configuration and a tensor table in, an adapter record out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.peft_config import CONFIG_NAME, PeftConfig, config_from
from lego_ray.formats.peft_keys import FactorKey, is_full_weight, is_training_only, parse_factor
from lego_ray.formats.peft_patterns import disagree
from lego_ray.formats.record import DTYPE_BYTES, AdapterRecord, SiteFactors, SiteKind, TensorSpan
from lego_ray.formats.refusals import check_config, check_tensors
from lego_ray.formats.strict_json import parse_object

FullWeights = Literal["refuse", "drop", "keep"]

# A convolution of 1, 2 or 3 dimensions has two axes more.
_CONV_NDIMS = (3, 4, 5)

_RESAVE = "Save the adapter again with PEFT, or leave it out."


def read_adapter(
    *,
    uri: str,
    config: bytes,
    weights_key: str,
    spans: Sequence[TensorSpan],
    n_bytes: int,
    version: str,
    revision: str,
    adapter_id: str,
    full_weights: FullWeights = "refuse",
    license: str = "",
    tags: Mapping[str, str] | None = None,
) -> AdapterRecord:
    """Describes a PEFT LoRA from its headers, having checked all that headers can show.

    Every site of the record is a complete pair of float32, float16 or bfloat16 factors whose ranks
    agree with each other and with the configuration.

    Args:
        uri: Where the adapter's directory is.
        config: Bytes of its `adapter_config.json`.
        weights_key: Name of the weights file inside it.
        spans: Its tensors, from `safetensors_header` or `torch_bin`.
        n_bytes: Size of the weights file.
        version: The store's mark of the weights file.
        revision: Commit of a hub repository, or empty.
        adapter_id: From `formats.identity`.
        full_weights: What to do with tensors that are not low-rank (saved modules, biases): refuse
            the adapter, drop them with a note, or keep them in the record.
        license: From the model card.
        tags: From the model card.

    Raises:
        UnsupportedAdapter: If it is no plain LoRA, or carries full weights and these are refused.
        RankMismatch: If a site's rank is not the one configured.
        MalformedAdapter: If a file is damaged, incomplete, or contradicts itself.
    """
    root = uri.rstrip("/")
    files = _Files(root, f"{root}/{CONFIG_NAME}", f"{root}/{weights_key}")
    fields = parse_object(config, files.config)
    names = [span.name for span in spans]
    check_layout(fields, (), files.config)
    check_config(fields, files.config)
    settings = config_from(fields, files.config)
    check_layout(fields, names, files.weights)
    check_tensors(names, files.weights)

    factors: list[tuple[FactorKey, TensorSpan]] = []
    whole: list[TensorSpan] = []
    notes: list[str] = []
    unknown: list[str] = []
    for span in spans:
        if key := parse_factor(span.name):
            factors.append((key, span))
        elif is_full_weight(span.name, settings):
            whole.append(span)
        elif is_training_only(span.name):
            notes.append(f"{span.name} is of use in training only and was left out")
        else:
            unknown.append(span.name)
    if unknown:
        problem = f"it holds tensors that are no part of a LoRA: {_some(unknown)}"
        raise UnsupportedAdapter(files.weights, problem, _RESAVE)
    _check_full_weights(whole, full_weights, files)
    if whole and full_weights == "drop":
        notes.append(f"full weights were dropped: {_some([span.name for span in whole])}")
    kept = tuple(sorted(whole, key=lambda span: span.name)) if full_weights == "keep" else ()
    sites = _pair(factors, settings, files)
    unsure = [s.site for s in sites if disagree(settings.alpha_pattern, s.site)]
    if unsure:
        notes.append(
            f"alpha_pattern has entries that disagree for {_some(unsure)}; the first in the file "
            "counts, as when PEFT loads it, which need not be the one training used"
        )
    return AdapterRecord(
        uri=uri,
        weights_key=weights_key,
        adapter_id=adapter_id,
        version=version,
        revision=revision,
        format="peft",
        base_model=settings.base_model,
        sites=sites,
        full_weights=kept,
        n_bytes=n_bytes,
        config={
            "task_type": settings.task_type,
            "fan_in_fan_out": settings.fan_in_fan_out,
            "modules_to_save": list(settings.modules_to_save) or None if kept else None,
            "bias": settings.bias if kept else "none",
        },
        license=license,
        tags=dict(tags or {}),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Files:
    """The adapter's directory and files, as errors name them."""

    root: str
    config: str
    weights: str


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check_full_weights(whole: Sequence[TensorSpan], choice: FullWeights, files: _Files) -> None:
    if whole and choice == "refuse":
        problem = (
            "it carries full weights, which are not low-rank and cannot be merged "
            f"(modules_to_save, biases or embeddings): {_some([span.name for span in whole])}"
        )
        hint = (
            "Choose --full-weights drop to leave them out, or --full-weights keep:NAME to take them "
            "from the one adapter of that name."
        )
        raise UnsupportedAdapter(files.weights, problem, hint)
    for span in whole if choice == "keep" else ():
        _check_dtype(span, files)


def _check_dtype(span: TensorSpan, files: _Files) -> None:
    if span.dtype not in DTYPE_BYTES:
        problem = f"{span.name} is {span.dtype}, expected one of {', '.join(DTYPE_BYTES)}"
        raise UnsupportedAdapter(files.weights, problem, "Save the adapter again as float32.")


def _pair(
    factors: Sequence[tuple[FactorKey, TensorSpan]], settings: PeftConfig, files: _Files
) -> tuple[SiteFactors, ...]:
    if not factors:
        raise MalformedAdapter(files.weights, "it holds no lora_A or lora_B at all", _RESAVE)
    adapters = sorted({key.adapter for key, _ in factors})
    if len(adapters) > 1:
        listed = ", ".join(name or "(unnamed)" for name in adapters)
        problem = f"it holds factors of several adapters: {listed}"
        hint = "Save each adapter to a directory of its own (PEFT: selected_adapters)."
        raise UnsupportedAdapter(files.weights, problem, hint)
    halves: dict[str, dict[str, tuple[FactorKey, TensorSpan]]] = {}
    for key, span in factors:
        if key.half in halves.setdefault(key.site, {}):
            problem = f"{key.site} has two factors {key.half}, one of them an embedding's"
            raise MalformedAdapter(files.weights, problem, _RESAVE)
        halves[key.site][key.half] = (key, span)
    out = []
    for site, found in sorted(halves.items()):
        if len(found) != 2 or found["A"][0].is_embedding != found["B"][0].is_embedding:
            problem = (
                f"{site} has no pair of A and B, only {_some([s.name for _, s in found.values()])}"
            )
            raise MalformedAdapter(files.weights, problem, _RESAVE)
        kind: SiteKind = "embedding" if found["A"][0].is_embedding else "linear"
        out.append(_factors(site, kind, found["A"][1], found["B"][1], settings, files))
    return tuple(out)


def _factors(
    site: str, kind: SiteKind, a: TensorSpan, b: TensorSpan, settings: PeftConfig, files: _Files
) -> SiteFactors:
    for span in (a, b):
        _check_dtype(span, files)
        if len(span.shape) < 2 or 0 in span.shape:
            problem = f"{span.name} has shape {list(span.shape)}, a factor has two sizes above zero"
            hint = "Shards of DeepSpeed or FSDP must be gathered before saving: save it again so."
            raise MalformedAdapter(files.weights, problem, hint)
    if kind == "linear" and len(a.shape) in _CONV_NDIMS:
        kind = "conv"
    if len(a.shape) != len(b.shape) or (kind != "conv" and len(a.shape) != 2):
        problem = f"{site} has A of shape {list(a.shape)} and B of shape {list(b.shape)}"
        raise MalformedAdapter(files.weights, problem, _RESAVE)
    if any(n != 1 for n in b.shape[2:]):
        problem = f"{b.name} has shape {list(b.shape)}, expected a 1x1 kernel"
        raise UnsupportedAdapter(files.weights, problem, _RESAVE)
    rank = a.shape[0]
    if kind == "conv" and b.shape[1] < rank and rank % b.shape[1] == 0:
        groups = rank // b.shape[1]
        problem = (
            f"{site} is a convolution in {groups} groups, whose B sees {b.shape[1]} ranks each"
        )
        hint = "Train the adapter without grouped convolutions among its target_modules."
        raise UnsupportedAdapter(files.weights, problem, hint)
    if rank != b.shape[1]:
        problem = f"{site} has rank {rank} in A (its rows) and {b.shape[1]} in B (its columns)"
        raise RankMismatch(files.weights, problem, _RESAVE)
    if rank != settings.rank_of(site):
        source = "r" if settings.rank_of(site) == settings.r else "rank_pattern"
        problem = f"{source} gives {site} rank {settings.rank_of(site)}, its tensor has rank {rank}"
        name = files.root.rpartition("/")[2]
        hint = (
            "Expected the two to agree. Re-export the adapter, or leave it out with "
            f"--exclude {name}."
        )
        raise RankMismatch(files.config, problem, hint)
    return SiteFactors(site, kind, rank, settings.scaling_of(site), a, b)
