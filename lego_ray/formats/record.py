"""What an adapter is, once its headers are read: frozen values, no bytes, no paths opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lego_ray.errors import redacted
from lego_ray.formats.site_factors import SiteFactors, TensorSpan

if TYPE_CHECKING:
    from lego_ray.formats.differences import Difference


@dataclass(frozen=True, slots=True)
class AdapterHeaders:
    """One adapter as a scan finds it: what its layout's reader makes an `AdapterRecord` of.

    Attributes:
        uri: As in `AdapterRecord`, and so are the others of the same name.
        weights_key: Name of the weights file.
        weights: The weights file's own URI, for errors.
        spans: Its tensors, from `safetensors_header` or `torch_bin`.
        metadata: What its header says beside them.
        config: Bytes of the `adapter_config.json` beside it, or None if there is none.
        n_bytes: Size of the weights file.
        version: The store's mark of it.
        revision: Commit of a hub repository, or empty.
        adapter_id: From `formats.identity`.
        base_model: What the model card beside it names, or empty.
        license: From the model card.
        tags: From the model card.
        config_version: The store's mark of the configuration, or empty if there is none.
        changed_at: As in `AdapterRecord`.
    """

    uri: str
    weights_key: str
    weights: str
    spans: tuple[TensorSpan, ...]
    metadata: Mapping[str, str]
    config: bytes | None
    n_bytes: int
    version: str
    revision: str
    adapter_id: str
    base_model: str = ""
    license: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    config_version: str = ""
    changed_at: tuple[str, str] = ("", "")

    def record(
        self,
        *,
        format: str,
        base_model: str,
        sites: tuple[SiteFactors, ...],
        config: Mapping[str, object],
        full_weights: tuple[TensorSpan, ...] = (),
        differences: tuple[Difference, ...] = (),
        notes: tuple[str, ...] = (),
        left_out: str = "",
    ) -> AdapterRecord:
        """The record of an adapter with these headers, any credentials in its texts left out.

        Args:
            format: Name of the layout, as in `LAYOUTS`.
            base_model: As in `AdapterRecord`.
            sites: Factor pairs, sorted by site.
            config: What a merged adapter takes over of the configuration.
            full_weights: As in `AdapterRecord`.
            differences: As in `AdapterRecord`.
            notes: What was set aside, in words.
            left_out: As in `AdapterRecord`.
        """
        adapter_id = self.adapter_id
        if left_out:
            from lego_ray.formats.identity import without

            adapter_id = without(adapter_id, left_out)
        return AdapterRecord(
            uri=self.uri,
            weights_key=self.weights_key,
            adapter_id=adapter_id,
            version=self.version,
            revision=self.revision,
            format=format,
            base_model=redacted(base_model),
            sites=sites,
            full_weights=full_weights,
            differences=differences,
            n_bytes=self.n_bytes,
            config=config,
            license=redacted(self.license),
            tags={key: redacted(value) for key, value in self.tags.items()},
            notes=notes,
            config_version=self.config_version,
            changed_at=self.changed_at,
            left_out=left_out,
        )


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One adapter as its headers describe it.

    Attributes:
        uri: Where the adapter is: its directory, or its file, in layouts
            without a configuration.
        weights_key: Name of the weights file.
        adapter_id: Hex sha256 that identifies the content (see `formats.identity`).
        version: What the store says of the weights file's version (an ETag, a blob hash, size and
            time on disk): changes whenever the file is written again. It says when to look again, and
            is not part of the adapter's identity.
        revision: Commit of a hub repository, or empty.
        format: Name of the layout read, such as `peft`.
        base_model: The base model's name, as the adapter has it, or empty.
        sites: Factor pairs, sorted by site.
        full_weights: Spans of tensors that are not low-rank (`modules_to_save`, biases) and were
            kept on request; empty otherwise. What was dropped is in `notes`.
        differences: Tensors that are added to weights, biases and norms of the base model, and were
            summed, averaged or kept on request; empty otherwise.
        n_bytes: Size of the weights file.
        config: The parts of the adapter's configuration that a merged adapter takes over, as JSON
            values: of PEFT's `task_type`, `fan_in_fan_out`, `modules_to_save` and `bias`; of the
            others see their modules.
        license: License named by the model card, or empty.
        tags: Free key/value pairs: from its header, a hub's file beside it, its model card.
        notes: What was set aside in reading it, in words; empty for most.
        content: Hex sha256 over its tensors (see `sources.contents`), or empty if they were never
            read whole.
        config_version: What the store says of the configuration's version, as of the weights'; empty
            if there is none. Configuration and weights are one unit.
        changed_at: On disk, `ObjectInfo.changed_at` of the weights file and of the configuration when
            they were scanned: a file of the same size and modification time may have taken the place of
            one. It is this machine's, and meant for one run.
        left_out: What of its factors and scalings its own reader passes over, by name; empty for most.
            Its id is then another: to earlier releases the same files meant another update.
    """

    uri: str
    weights_key: str
    adapter_id: str
    version: str
    revision: str
    format: str
    base_model: str
    sites: tuple[SiteFactors, ...]
    full_weights: tuple[TensorSpan, ...]
    n_bytes: int
    config: Mapping[str, object] = field(default_factory=dict)
    license: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    content: str = ""
    config_version: str = ""
    differences: tuple[Difference, ...] = ()
    changed_at: tuple[str, str] = field(default=("", ""), compare=False)
    left_out: str = ""

    @property
    def mark(self) -> str:
        """What differs once the weights file was written again or replaced, as far as a scan sees."""
        return f"{self.version} {self.changed_at[0]}".rstrip()

    @property
    def folder(self) -> str:
        """The directory that the weights file is in; the URI is its own or that of the file."""
        return self.uri.removesuffix(f"/{self.weights_key}") or "/"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each site, in site order."""
        return tuple(s.rank for s in self.sites)

    @property
    def n_params(self) -> int:
        """Number of LoRA parameters."""
        return sum(s.rank * (s.d_in + s.d_out) for s in self.sites)

    @property
    def dtype(self) -> str:
        """The element type that holds most of the parameters."""
        count: dict[str, int] = {}
        for s in self.sites:
            count[s.a.dtype] = count.get(s.a.dtype, 0) + s.rank * s.d_in
            count[s.b.dtype] = count.get(s.b.dtype, 0) + s.rank * s.d_out
        return max(sorted(count), key=lambda name: count[name]) if count else ""


@dataclass(frozen=True, slots=True)
class Refused:
    """An adapter that was not taken.

    Attributes:
        uri: Where it is.
        status: `refused` (its headers say it cannot be merged) or `quarantined` (its weights do).
        reason: The error's class and message, as shown to the user.
        adapter_id: Its id, if its weights were read.
        version: The store's mark of them, as in `AdapterRecord`.
        content: As in `AdapterRecord`.
        base_model: As in `AdapterRecord`, and so are those that follow, as far as they could be read.
    """

    uri: str
    status: Literal["refused", "quarantined"]
    reason: str
    adapter_id: str = ""
    version: str = ""
    content: str = ""
    base_model: str = field(default="", compare=False)
    n_bytes: int = field(default=0, compare=False)
    license: str = field(default="", compare=False)
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    def as_json(self) -> dict[str, str]:
        """As records list it."""
        return {"adapter": self.uri, "reason": self.reason}


def sharing_sites(adapters: Iterable[AdapterRecord]) -> list[list[AdapterRecord]]:
    """Adapters in groups that have one tuple of sites, the same object, as a scan gives those alike.

    What depends on sites alone is then computed once a group. Adapters with equal sites may be in
    several groups.

    Args:
        adapters: In any order, which the groups and what is in them keep.
    """
    groups: dict[int, list[AdapterRecord]] = {}
    for adapter in adapters:
        groups.setdefault(id(adapter.sites), []).append(adapter)
    return list(groups.values())
