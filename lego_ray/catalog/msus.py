"""Rows of `msus` on their way into files: numbers, and each text once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lego_ray.catalog.data_files import GROUP_ROWS
from lego_ray.catalog.schema import TABLES
from lego_ray.lazy import NDArray, np

# Rows of a file, if it has several sites: some 40 MB of it, and 100 MB of memory while it is written.
FILE_ROWS = 1 << 21


@dataclass(frozen=True, slots=True)
class SiteMsus:
    """One site's rows.

    Attributes:
        site: The module's path.
        adapters: Number of each row's adapter, shape (n,), int32.
        ranks: Its `rank_index`, shape (n,), int32.
        clusters: Its `cluster`, shape (n,), int32.
        distances: Its `distance`, shape (n,), float64; None for null in all rows.
        weights: Its `weight`, shape (n,), float64; None for null in all rows.
    """

    site: str
    adapters: NDArray[np.int32]
    ranks: NDArray[np.int32]
    clusters: NDArray[np.int32]
    distances: NDArray[np.float64] | None
    weights: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class MsuRows:
    """A merge's rows of `msus`.

    Attributes:
        merge_id: The merge.
        adapter_ids: adapter_id of each adapter, by its number.
        sites: Its rows, site by site.
        file_rows: Most rows of a file that has several sites.
    """

    merge_id: str
    adapter_ids: Sequence[str]
    sites: Sequence[SiteMsus]
    file_rows: int = FILE_ROWS

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return sum(len(site.adapters) for site in self.sites)

    def parts(self) -> Iterator[MsuRows]:
        """The rows of one file after another, each with whole sites; none for no rows."""
        part: list[SiteMsus] = []
        n_rows = 0
        for site in self.sites:
            if part and n_rows + len(site.adapters) > self.file_rows:
                yield MsuRows(self.merge_id, self.adapter_ids, part)
                part, n_rows = [], 0
            if len(site.adapters):
                part.append(site)
                n_rows += len(site.adapters)
        if part:
            yield MsuRows(self.merge_id, self.adapter_ids, part)

    def table(self) -> pa.Table:
        """All rows as columns, in which each text is there once.

        More rows than a row group of a file has are sorted by adapter_id, so that a reader who looks
        for one adapter reads a row group or two of each file. Those of one adapter stay in their order.
        """
        ids, numbers = np.unique(np.array(self.adapter_ids, object), return_inverse=True)
        counts = [len(site.adapters) for site in self.sites]
        sites = np.repeat(np.arange(len(self.sites), dtype=np.int32), counts)
        adapters = numbers.astype(np.int32)[_joined([s.adapters for s in self.sites], np.int32)]
        order = np.argsort(adapters, kind="stable") if len(adapters) > GROUP_ROWS else None

        def ordered(values: NDArray[Any]) -> NDArray[Any]:
            return values if order is None else values[order]

        def numbered(values: NDArray[np.int32], texts: Sequence[str]) -> pa.Array:
            return pa.DictionaryArray.from_arrays(
                pa.array(ordered(values)), pa.array(texts, pa.string())
            )

        def real(name: str) -> pa.Array:
            parts = [_or_nan(getattr(s, name), len(s.adapters)) for s in self.sites]
            return pa.array(ordered(_joined(parts, np.float64)), from_pandas=True)

        columns = {
            "merge_id": numbered(np.zeros(len(adapters), np.int32), [self.merge_id]),
            "site": numbered(sites, [site.site for site in self.sites]),
            "adapter_id": numbered(adapters, ids.tolist()),
            "rank_index": pa.array(ordered(_joined([s.ranks for s in self.sites], np.int32))),
            "cluster": pa.array(ordered(_joined([s.clusters for s in self.sites], np.int32))),
            "distance": real("distances"),
            "weight": real("weights"),
        }
        fields = [
            column.field.with_type(columns[column.name].type) for column in TABLES["msus"].columns
        ]
        return pa.table([columns[field.name] for field in fields], schema=pa.schema(fields))


def _or_nan(values: NDArray[np.float64] | None, n: int) -> NDArray[np.float64]:
    """The values; as many that are not a number, which become null, where there are none."""
    return np.full(n, np.nan) if values is None else values


def _joined(parts: Sequence[NDArray[Any]], kind: type) -> NDArray[Any]:
    """The parts one after another; of the right type where there are none."""
    return np.concatenate([np.empty(0, kind), *parts])
