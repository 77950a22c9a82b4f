"""The records of what looks through a catalog and its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lego_ray.records import Record, TableRecord

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class CatalogCheck(TableRecord):
    """What is wrong with a catalog, or that nothing is.

    Attributes:
        catalog: URI of the catalog.
        ok: Whether nothing is wrong.
        merges: How many merges were checked.
        deep: Whether all bytes of the outputs were read.
        problems: Each with `merge_id`, `name`, `version`, `where`, `problem`, `table`, `key` and
            `repair`. Of a problem with rows, `table` and `key` say which, and `repair` what
            `repair_catalog` does about it, None if it can do nothing. `merge_id`, `name` and `version`
            are None of rows that belong to no merge that is recorded.
        unpublished: How many merges have details in the tables and no row. They are of
            runs that were cut short, or that publish now, which is not a problem.
    """

    rows_of = "problems"
    columns = ("merge_id", "name", "version", "where", "problem", "table", "key", "repair")

    catalog: str
    ok: bool
    merges: int
    deep: bool
    problems: tuple[Entry, ...]
    unpublished: int

    def __repr__(self) -> str:
        found = "ok" if self.ok else f"{len(self.problems)} problems"
        return f"<{type(self).__name__} {found}: {self.merges} merges, {self.catalog}>"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class AdoptRecord(Record):
    """A published merge that was recorded afterwards.

    Attributes:
        merged: URI of the merged adapter.
        merge_id: Hex sha256 of its plan.
        name: Its name in the catalog.
        catalog: URI of the catalog.
        status: `recorded`, or `already recorded`.
        has_details: Whether the catalog has its rows in `merge_sites` and `msus`.
    """

    merged: str
    merge_id: str
    name: str
    catalog: str
    status: str
    has_details: bool

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.status}, {self.catalog}>"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class CatalogRepair(Record):
    """What was put right in a catalog, or would be.

    Attributes:
        catalog: URI of the catalog.
        applied: Whether anything was changed.
        ok: Whether nothing is wrong, or is left wrong.
        tables: Of the tables that are changed: `table`, and numbers of rows, `removed`, `added` and
            `changed`.
        repairs: Each with `table`, `key`, `merge_id`, `problem` and `repair`.
        left: What cannot be put right from here, each with `table`, `key`, `merge_id` and `problem`.
    """

    catalog: str
    applied: bool
    ok: bool
    tables: tuple[Entry, ...]
    repairs: tuple[Entry, ...]
    left: tuple[Entry, ...]

    def __repr__(self) -> str:
        done = "repairs" if self.applied else "repairs to make"
        return (
            f"<{type(self).__name__} {len(self.repairs)} {done}, {len(self.left)} left, "
            f"{self.catalog}>"
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Garbage(Record):
    """What merges left behind that no row of a catalog refers to.

    Attributes:
        catalog: URI of the catalog.
        root: URI that was looked through.
        deleted: Whether it was deleted.
        outputs: Each with `output`, `kind`, `name`, `merge_id` (None of what is of no merge), `files`,
            `bytes` and `modified_at`.
        kept: Outputs to which no row refers and that stay, each with `output` and `reason`.
        details: Rows of merges that were never published, each with `table`, `merge_id` and `rows`.
        rows_deleted: How many of these were deleted.
        unseen: Sentences on what could not be looked at.
        files: Files of all outputs.
        bytes: Their bytes.
    """

    catalog: str
    root: str
    deleted: bool
    outputs: tuple[Entry, ...]
    kept: tuple[Entry, ...]
    details: tuple[Entry, ...]
    rows_deleted: int
    unseen: tuple[str, ...]
    files: int
    bytes: int

    def __repr__(self) -> str:
        done = "deleted" if self.deleted else "found"
        return (
            f"<{type(self).__name__} {done}: {len(self.outputs)} outputs, {self.files} files, "
            f"{self.bytes} bytes, {self.root}>"
        )
