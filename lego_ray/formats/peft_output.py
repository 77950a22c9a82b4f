"""Merges in PEFT's layout; their configuration is known before a tensor is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from lego_ray.formats.base_model import shared_revision
from lego_ray.formats.differences import ENDS, split_end
from lego_ray.formats.output_layout import (
    Asked,
    OutputLayout,
    PlannedSite,
    agreed,
    shapes_of_differences,
)
from lego_ray.formats.peft_beside import BIAS, bias_key, scaled
from lego_ray.formats.peft_carried import Carried, carried_over
from lego_ray.formats.peft_config import WEIGHTS_NAME
from lego_ray.formats.peft_keys import factor_key
from lego_ray.formats.peft_parameters import WRITTEN_FOR, Stored, stored_pairs
from lego_ray.formats.peft_ranks import StoredRanks, stored_ranks
from lego_ray.formats.peft_tied import TIED, keeps_tied, tied_pair, with_tied_head
from lego_ray.formats.readers import peft, servers
from lego_ray.formats.readers.outgoing import Outgoing
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteKind

if TYPE_CHECKING:
    from lego_ray.formats.merged import MergedSite

T = TypeVar("T")


_SERVERS = ("vLLM", "SGLang", "llama.cpp")
_READERS: Mapping[str, str] = {"PEFT": "", **dict.fromkeys(_SERVERS, "without full weights")}


class PeftOutput(OutputLayout):
    """Weights and a configuration, which is what makes them an adapter."""

    name = "peft"
    library = "peft"
    readers = _READERS
    has_config = True
    is_pipeline = False
    rules = (peft.findings, servers.findings)

    def weights_name(self, merge: str) -> str:
        """PEFT's own."""
        return WEIGHTS_NAME

    def foreseen(
        self,
        where: str,
        base_model: str,
        adapters: Sequence[AdapterRecord],
        sites: Sequence[PlannedSite],
        ranks: Mapping[str, int],
    ) -> tuple[tuple[str, ...], Outgoing | None]:
        """With the configuration, and what is carried over from the sources' own."""
        rank = max(ranks.values())
        stored = stored_pairs({site.site: site.kind for site in sites})
        tied = tied_pair(adapters, {s.site: (s.kind, s.a_tail[0], s.d_out) for s in sites})
        carried = _carried_of(adapters, base_model, [each.name for each in stored], tied)
        if tied:
            ranks = {**ranks, tied[1]: ranks[tied[0]]}
        own = stored_ranks(stored, ranks, rank)
        shapes = _shapes_of(stored, sites, own)
        for adapter in adapters:
            shapes |= {carried.keys[span.name]: span.shape for span in adapter.full_weights}
        if any(adapter.differences for adapter in adapters):
            shapes |= _biases_of(shapes_of_differences(adapters))
        heights = {each.site: each.d_out for each in sites if each.kind in ("linear", "conv")}
        shapes |= {key: (size,) for key, size in _zero_biases(carried, heights, shapes).items()}
        config = config_of(
            stored,
            ranks=own,
            base_model=base_model,
            task_type=carried.task_type,
            fan_in_fan_out=bool(agreed(adapters, "fan_in_fan_out")),
            modules_to_save=carried.modules_to_save,
            bias=carried.bias,
            beside=carried.beside,
        )
        return carried.notes, Outgoing(self.name, where, shapes, config)

    def files(
        self, sites: Sequence[MergedSite], asked: Asked, full_weights: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Two files; the configuration is last."""
        from lego_ray.formats.decode import as_stored
        from lego_ray.formats.peft_writer import encode

        spans = {span.name: span for adapter in asked.adapters for span in adapter.full_weights}
        stored = stored_pairs({site.site: site.kind for site in sites})
        shapes = {s.site: (s.kind, s.a.shape[1], s.b.shape[0]) for s in sites}
        tied = tied_pair(asked.adapters, shapes)
        names = [each.name for each in stored]
        carried = _carried_of(asked.adapters, asked.base_model, names, tied)
        keeper = next((a for a in asked.adapters if a.full_weights), None)
        noted = keeper.config if keeper else {}
        kept = {
            carried.keys[name]: scaled(name, as_stored(spans[name], raw), noted)
            for name, raw in full_weights.items()
        }
        kept |= _biases_of(asked.beside())
        heights = {each.site: len(each.b) for each in sites if each.kind in ("linear", "conv")}
        for key, size in _zero_biases(carried, heights, kept).items():
            kept[key] = sites[0].b.new_zeros(size)
        return encode(
            with_tied_head(sites, tied) if tied else sites,
            **asked.common(),
            task_type=carried.task_type,
            fan_in_fan_out=bool(agreed(asked.adapters, "fan_in_fan_out")),
            full_weights=kept,
            modules_to_save=carried.modules_to_save,
            bias=carried.bias,
            beside=carried.beside,
        )

    def usage(self, weights_name: str) -> Sequence[str]:
        """Of a directory or a repository."""
        return (
            "from peft import PeftModel",
            "",
            "# `model` is the base model. The name is this directory's, or owner/name on the Hub.",
            'model = PeftModel.from_pretrained(model, "...")',
        )


def keys_of(stored: Stored, kind: SiteKind) -> tuple[str, str]:
    """What A and B of a pair of tensors are called in the file.

    Args:
        stored: The pair.
        kind: Its sites'.
    """
    is_embedding = kind == "embedding"
    return (
        factor_key(stored.path, "A", is_embedding=is_embedding),
        factor_key(stored.path, "B", is_embedding=is_embedding),
    )


def _shapes_of(
    stored: Sequence[Stored], sites: Sequence[PlannedSite], ranks: StoredRanks
) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors by key."""
    by_name = {site.site: site for site in sites}
    shapes: dict[str, tuple[int, ...]] = {}
    for each in stored:
        site = by_name[each.sites[0]]
        rows = ranks.by_name[each.name] * len(each.sites)
        a, b = keys_of(each, site.kind)
        shapes[a] = (rows, *site.a_tail)
        shapes[b] = (site.d_out, rows, *(1,) * (site.b_dims - 2))
    return shapes


def _zero_biases(
    carried: Carried, heights: Mapping[str, int], present: Collection[str]
) -> dict[str, int]:
    """Biases of B that are not kept from an adapter and that PEFT looks for beside one that is.

    Args:
        carried: What is taken over.
        heights: Rows of B of the sites that PEFT gives one, by name.
        present: Keys of the biases that are kept.

    Returns:
        Sizes by key.
    """
    if BIAS not in carried.beside:
        return {}
    keys = {bias_key(site): size for site, size in sorted(heights.items())}
    return {key: size for key, size in keys.items() if key not in present}


def _carried_of(
    adapters: Sequence[AdapterRecord],
    base_model: str,
    sites: Iterable[str],
    tied: tuple[str, str] | None,
) -> Carried:
    """What a merge takes over of its sources' configurations."""
    keeper = next((a for a in adapters if a.full_weights), None)
    carried = carried_over(
        agreed(adapters, "task_type"),
        keeper.config if keeper else {},
        [span.name for span in keeper.full_weights] if keeper else [],
        set(sites),
    )
    if any(adapter.differences for adapter in adapters):
        carried = replace(carried, beside={**carried.beside, BIAS: True})
    if tied or keeps_tied(adapters):
        carried = replace(carried, beside={**carried.beside, TIED: True})
    if revision := shared_revision(adapters, base_model):
        carried = replace(carried, beside={**carried.beside, **revision})
    return carried


def _biases_of(beside: Mapping[str, T]) -> dict[str, T]:
    """Differences of biases by PEFT's keys; those of other weights by their own, which it refuses."""
    out: dict[str, T] = {}
    for key, value in beside.items():
        split = split_end(key)
        is_bias = split is not None and ENDS[split[1]] == "bias"
        out[bias_key(split[0]) if split and is_bias else key] = value
    return out


def config_of(
    stored: Sequence[Stored],
    *,
    ranks: StoredRanks,
    base_model: str,
    task_type: str | None,
    fan_in_fan_out: bool,
    modules_to_save: Sequence[str] | None = None,
    bias: str = "none",
    beside: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:
    """The fields of `adapter_config.json`, as JSON values.

    Args:
        stored: Every module and parameter, sorted by name.
        ranks: The ranks they are stored at; alpha is the rank everywhere.
        base_model: Copied to `base_model_name_or_path`.
        task_type: Copied.
        fan_in_fan_out: Copied.
        modules_to_save: Copied.
        bias: Copied.
        beside: Further fields.
    """
    parameters = [each.name for each in stored if each.is_parameter]
    fields: dict[str, object] = {
        "alpha_pattern": dict(ranks.patterns),
        "base_model_name_or_path": base_model or None,
        "bias": bias,
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": ranks.r,
        "lora_dropout": 0.0,
        "modules_to_save": list(modules_to_save) if modules_to_save else None,
        "peft_type": "LORA",
        "r": ranks.r,
        "rank_pattern": dict(ranks.patterns),
        "target_modules": [each.name for each in stored if not each.is_parameter],
        "task_type": task_type,
        "use_dora": False,
        "use_rslora": False,
        **beside,
    }
    if parameters:  # the version says on which axes their factors are
        fields |= {"target_parameters": parameters, "peft_version": WRITTEN_FOR}
    return fields
