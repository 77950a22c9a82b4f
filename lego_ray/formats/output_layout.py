"""What a layout that merges are written in owns: names of files, writer, readers, how it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from lego_ray.formats.differences import Difference, differences_of, stored_keys
from lego_ray.formats.fused import part_named
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.readers.outgoing import Finding, Outgoing
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteKind
from lego_ray.lazy import Tensor

if TYPE_CHECKING:
    from lego_ray.formats.merged import MergedSite

Rules = Callable[[Outgoing], Iterator[Finding]]


class PlannedSite(Protocol):
    """A site of a merge, as far as its tensors' shapes need to know it."""

    @property
    def site(self) -> str:
        """Path of the module."""

    @property
    def kind(self) -> SiteKind:
        """What the module is."""

    @property
    def d_out(self) -> int:
        """Rows of B."""

    @property
    def a_tail(self) -> tuple[int, ...]:
        """Shape of one row of A as stored."""

    @property
    def b_dims(self) -> int:
        """Number of axes of B as stored."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be written.

    Attributes:
        name: Name of the merge.
        base_model: Name of the base model.
        adapters: Its sources, the one whose full weights are kept among them.
        rank: Its rank.
        dtype: Element type to store.
        compact: Whether each site is stored at its own rank.
        differences: Differences of weights, biases and norms as they are stored, by common key.
    """

    name: str
    base_model: str
    adapters: Sequence[AdapterRecord]
    rank: int
    dtype: str
    compact: bool
    differences: Mapping[str, Tensor] = field(default_factory=dict)

    def common(self) -> dict[str, Any]:
        """What every writer takes of it."""
        names = ("rank", "dtype", "base_model", "compact")
        return {name: getattr(self, name) for name in names}

    def beside(self) -> dict[str, Tensor]:
        """The differences by the keys they have in a single file."""
        keys = _stored_keys(self.adapters)
        return {keys[key]: tensor for key, tensor in self.differences.items()}


class OutputLayout(ABC):
    """A layout that merges are written in.

    Attributes:
        name: As in the catalog's `format` column and the manifest.
        library: The library that loads it, as a model card names it.
        readers: Programs that load it, each with the models it does so for; empty for all that have it.
        has_config: Whether `adapter_config.json` stands beside the weights.
        is_pipeline: Whether its adapters are of the components of a pipeline, whose modules different
            trainers name differently.
        has_components: Whether the first part of a module's name is a component of a pipeline.
        rules: What its readers demand of a file, the main reader's first.
    """

    name: str
    library: str
    readers: Mapping[str, str]
    has_config: bool = False
    is_pipeline: bool = True
    has_components: bool = False
    rules: tuple[Rules, ...]

    @abstractmethod
    def weights_name(self, merge: str) -> str:
        """Name of the weights file of a merge.

        Args:
            merge: The merge's name.
        """

    @abstractmethod
    def foreseen(
        self,
        where: str,
        base_model: str,
        adapters: Sequence[AdapterRecord],
        sites: Sequence[PlannedSite],
        ranks: Mapping[str, int],
    ) -> tuple[tuple[str, ...], Outgoing | None]:
        """What a merge will be, before anything is solved.

        Args:
            where: What to call it in errors.
            base_model: Name of its base model.
            adapters: Its sources.
            sites: Its sites.
            ranks: Rank of each as stored.

        Returns:
            What is left out so that readers load it, one sentence each without its full stop; and its
            keys and shapes, or None where they say nothing about what readers do.
        """

    @abstractmethod
    def files(
        self, sites: Sequence[MergedSite], asked: Asked, full_weights: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Encodes a merged adapter, to the same bytes for the same values.

        Args:
            sites: Every site, in any order.
            asked: What is to be written.
            full_weights: Raw bytes of tensors passed through, by name.

        Returns:
            File name to bytes, the one that makes it an adapter last.
        """

    @abstractmethod
    def usage(self, weights_name: str) -> Sequence[str]:
        """How the adapter is put on its base model: lines of Python.

        Args:
            weights_name: Name of the weights file.
        """

    def marker(self, merge: str) -> str:
        """Name of the file that makes an output an adapter, and so is written last.

        It is the one that readers look for first: the configuration, or else the weights.

        Args:
            merge: The merge's name.
        """
        return CONFIG_NAME if self.has_config else self.weights_name(merge)


def agreed(adapters: Sequence[AdapterRecord], field: str) -> Any:
    """The value of a field of the configuration that all sources have in common; None for none.

    Args:
        adapters: The sources.
        field: The field's name.
    """
    values = {adapter.config.get(field) for adapter in adapters}
    return values.pop() if len(values) == 1 else None


def shapes_of(
    sites: Sequence[PlannedSite],
    ranks: Mapping[str, int],
    keys: Callable[[PlannedSite], Sequence[str]],
) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors as they will be stored, by key.

    Args:
        sites: The sites.
        ranks: Rank of each as stored.
        keys: What A and B of a site are called in the file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for site in sites:
        a, b = keys(site)
        shapes[a] = (ranks[site.site], *site.a_tail)
        shapes[b] = (site.d_out, ranks[site.site], *(1,) * (site.b_dims - 2))
    return shapes


def shapes_of_differences(adapters: Sequence[AdapterRecord]) -> dict[str, tuple[int, ...]]:
    """Shapes of the differences of a merge as they will be stored, by the key in a single file.

    Args:
        adapters: Its sources.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for same in differences_of(adapters).values():
        each = same[0]
        part = part_named(each.module)
        whole = replace(each, module=part.whole) if part else each
        shapes[whole.key] = (part.height, *each.shape[1:]) if part else each.shape
    keys = _stored_keys(adapters)
    return {keys[key]: shape for key, shape in shapes.items()}


def _stored_keys(adapters: Sequence[AdapterRecord]) -> dict[str, str]:
    """What differences are called in a single file, by common key, parts of a module put together."""
    found: dict[str, list[Difference]] = {}
    for same in differences_of(adapters).values():
        for each in same:
            part = part_named(each.module)
            whole = replace(each, module=part.whole) if part else each
            found.setdefault(whole.key, []).append(whole)
    return stored_keys(found)
