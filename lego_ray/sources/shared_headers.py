"""What the adapters of one scan have in common, parsed once and kept once.

The adapters of a fleet differ in their weights, and have one table of tensors and one configuration.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from threading import Lock
from typing import Any, TypeVar

from lego_ray.formats.identity import table_of
from lego_ray.formats.lone import FullWeights
from lego_ray.formats.model_card import ModelCard
from lego_ray.formats.reading import read_adapter
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.safetensors_header import parse_header
from lego_ray.formats.site_factors import SiteFactors, TensorSpan

# Different headers kept at once. What adapters are taken is kept by them anyway, so this bounds what
# is kept of the others.
KEPT = 256

Value = TypeVar("Value")


class SharedHeaders:
    """Headers of one scan's adapters, each different one parsed once. Safe to share between threads.

    What it gives is equal to what reading each adapter by itself gives.
    """

    def __init__(self) -> None:
        """Knows none yet."""
        self.cards: dict[str, ModelCard] = {}
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._sites: dict[tuple[SiteFactors, ...], tuple[SiteFactors, ...]] = {}
        self._lock = Lock()

    def parsed(
        self, header: bytes, n_bytes: int, where: str
    ) -> tuple[tuple[TensorSpan, ...], Mapping[str, str]]:
        """What `parse_header` says of a header.

        Args:
            header: Its bytes.
            n_bytes: Size of the file.
            where: The file, for the error.

        Raises:
            MalformedAdapter: As `parse_header` does.
        """
        key = ("header", _hash(header), n_bytes)
        return self._once(key, lambda: parse_header(header, n_bytes, where))

    def identity(self, config: bytes, spans: tuple[TensorSpan, ...], n_bytes: int) -> bytes:
        """What the headers have in an adapter's id; see `identity.table_of`.

        Args:
            config: As there.
            spans: From `parsed`.
            n_bytes: As there.
        """
        key = ("identity", _hash(config), id(spans), n_bytes)
        _, found = self._once(key, lambda: (spans, table_of(config, spans, n_bytes)))
        return found

    def record(
        self, headers: AdapterHeaders, mode: FullWeights, *, with_base: bool
    ) -> AdapterRecord:
        """What `read_adapter` makes of headers.

        Args:
            headers: Their spans from `parsed`.
            mode: What to do with weights that are not low-rank.
            with_base: As for `read_adapter`.

        Raises:
            AdapterRefused: As `read_adapter` does.
        """
        key = (
            "record",
            id(headers.spans),
            tuple(sorted(headers.metadata.items())),
            None if headers.config is None else _hash(headers.config),
            headers.weights_key,
            headers.base_model,
            mode,
            with_base,
        )

        def read() -> tuple[tuple[TensorSpan, ...], AdapterRecord]:
            # The spans are kept with it, so that no other table can get their id.
            return headers.spans, read_adapter(headers, mode, with_base=with_base)

        _, found = self._once(key, read)
        return headers.record(
            format=found.format,
            base_model=found.base_model,
            sites=self._one(found.sites),
            config=found.config,
            full_weights=found.full_weights,
            differences=found.differences,
            notes=found.notes,
            left_out=found.left_out,
        )

    def _once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]  # type: ignore[no-any-return]
        made = make()
        with self._lock:
            found: Value = self._kept.setdefault(key, made)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return found

    def _one(self, sites: tuple[SiteFactors, ...]) -> tuple[SiteFactors, ...]:
        """The sites of an adapter read before that are equal to these, or these."""
        with self._lock:
            return self._sites.setdefault(sites, sites)


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()
