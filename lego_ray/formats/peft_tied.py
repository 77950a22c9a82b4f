"""Adapters of tied embeddings (PEFT's `ensure_weight_tying`): two modules with one update.

PEFT then gives the output layer the embedding's factors, transposed and exchanged
(`peft.tuners.lora.LoraModel`, 0.19 to 0.21), and both are in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lego_ray.formats.peft_keys import is_embedding_name, is_embedding_weight
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteKind

if TYPE_CHECKING:
    from lego_ray.formats.merged import MergedSite

TIED = "ensure_weight_tying"
# Of a site: its kind, d_in and d_out.
Shapes = Mapping[str, tuple[SiteKind, int, int]]


def tying_of(
    fields: Mapping[str, object], sites: Collection[str], kept: Collection[str]
) -> dict[str, object]:
    """What a record's configuration says of it; empty for an adapter that is not tied.

    Args:
        fields: The adapter's configuration.
        sites: Its sites.
        kept: Keys of the full weights that are kept.
    """
    return {TIED: True} if fields.get(TIED) and _has_embedding(sites, kept) else {}


def _are_tied(adapters: Sequence[AdapterRecord]) -> bool:
    """Whether adapters of a merge have an embedding, and all that do are tied.

    Args:
        adapters: The sources. Those of an update are known without sites and may be tied or not, so
            its result is not.
    """
    having = [
        adapter
        for adapter in adapters
        if not adapter.sites
        or _has_embedding(
            [factors.site for factors in adapter.sites],
            [span.name for span in adapter.full_weights],
        )
    ]
    return bool(having) and all(adapter.config.get(TIED) for adapter in having)


def tied_pair(adapters: Sequence[AdapterRecord], shapes: Shapes) -> tuple[str, str] | None:
    """The embedding and the output layer of a merge whose factors are tied; None if none are.

    Args:
        adapters: The sources. All that have an embedding must be tied.
        shapes: Every site of the merge.
    """
    if not _are_tied(adapters):
        return None
    named = {site: shape for site, shape in shapes.items() if is_embedding_name(site)}
    pairs = [
        (one, other)
        for one, (kind, vocabulary, width) in named.items()
        for other, shape in named.items()
        if kind == "embedding" and shape == ("linear", width, vocabulary)
    ]
    return pairs[0] if len(pairs) == 1 else None


def keeps_tied(adapters: Sequence[AdapterRecord]) -> bool:
    """Whether a merge keeps an embedding and an output layer that are tied."""
    kept = {s.name for a in adapters for s in a.full_weights if is_embedding_weight(s.name)}
    return len(kept) == 2 and _are_tied(adapters)


def with_tied_head(sites: Sequence[MergedSite], pair: tuple[str, str]) -> list[MergedSite]:
    """The sites, with the factors of the embedding at the output layer too.

    Args:
        sites: The merged sites.
        pair: The embedding and the output layer.
    """
    embedding = next(site for site in sites if site.site == pair[0])
    a, b = embedding.b.T, embedding.a.T
    return [replace(site, a=a, b=b) if site.site == pair[1] else site for site in sites]


def _has_embedding(sites: Collection[str], kept: Collection[str]) -> bool:
    return any(map(is_embedding_name, sites)) or any(map(is_embedding_weight, kept))
