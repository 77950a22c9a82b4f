"""The page of a catalog's health: what a check found, sizes, and what could be freed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.totals import TableSize
from lego_ray.catalog.upkeep.vacuum import Vacuumed, vacuum
from lego_ray.errors import CatalogError
from lego_ray.reporting.site.library import Library
from lego_ray.reporting.site.pages import File, key_of, page, shown, text

# Lines of one kind that the page shows.
SHOWN = 500

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a catalog's health.

    Attributes:
        sizes: Of its tables.
        vacuumed: What a vacuum would remove; None where it was not asked, or refused.
        check: What `check_catalog` said; None if it was not run.
        garbage: What `collect_garbage` found; None if no root was given.
        notes: Sentences on what could not be found out.
    """

    sizes: Sequence[TableSize]
    vacuumed: Sequence[Vacuumed] | None
    check: Entry | None
    garbage: Entry | None
    notes: Sequence[str]


def find_vacuumed(
    catalog: Catalog, tables: Sequence[str]
) -> tuple[list[Vacuumed] | None, list[str]]:
    """What a vacuum with the usual retention would remove, and a sentence where it would refuse.

    Args:
        catalog: Which catalog.
        tables: Its tables.
    """
    try:
        return [vacuum(catalog, table, dry_run=True) for table in tables], []
    except CatalogError as error:
        return None, [f"A vacuum would fail: {error.where}: {error.problem}."]


def health_page(library: Library, health: Health) -> File:
    """The page.

    Args:
        library: The catalog.
        health: What is known of its health.
    """
    freed = {each.table: each for each in health.vacuumed or ()}
    tables = [
        [
            *(size.table, size.rows, size.files, size.n_bytes),
            *(
                (freed[size.table].files, freed[size.table].n_bytes)
                if size.table in freed
                else (None, None)
            ),
        ]
        for size in health.sizes
    ]
    told = {
        "tables": tables,
        "adapters": _adapters(library),
        "check": _check(health.check) if health.check else None,
        "garbage": _garbage(health.garbage) if health.garbage else None,
        "notes": [shown(note) for note in health.notes],
    }
    return page("health", text(told))


def _adapters(library: Library) -> list[list[Any]]:
    """Of each status: the number of rows, and bytes of the weights files."""
    counted = (
        library.adapters.select(["status", "n_bytes"])
        .group_by("status", use_threads=False)
        .aggregate([([], "count_all"), ("n_bytes", "sum")])
        .sort_by("status")
    )
    return [
        [shown(row["status"]), row["count_all"], row["n_bytes_sum"] or 0]
        for row in counted.to_pylist()
    ]


def adapters_by_status(library: Library) -> dict[str, int]:
    """How many rows of `adapters` have each status.

    Args:
        library: The catalog.
    """
    found = pc.value_counts(library.adapters["status"].combine_chunks())
    return {str(each["values"]): int(each["counts"]) for each in found.to_pylist()}


def _check(record: Entry) -> dict[str, Any]:
    problems = [
        [
            key_of(each["merge_id"]) if each["merge_id"] else None,
            *(shown(each["name"]), each["version"], shown(each["key"])),
            *(shown(each["where"]), shown(each["problem"]), shown(each["repair"])),
        ]
        for each in record["problems"]
    ]
    return {
        "ok": record["ok"],
        "merges": record["merges"],
        "deep": record["deep"],
        "unpublished": record["unpublished"],
        "problems": problems[:SHOWN],
        "more": max(0, len(problems) - SHOWN),
    }


def _garbage(record: Entry) -> dict[str, Any]:
    outputs = [
        [
            *(shown(each["output"]), shown(each["kind"]), shown(each["name"]), each["files"]),
            *(each["bytes"], shown(each["modified_at"])),
        ]
        for each in record["outputs"]
    ]
    kept = [[shown(each["output"]), shown(each["reason"])] for each in record["kept"]]
    return {
        "root": shown(record["root"]),
        "files": record["files"],
        "bytes": record["bytes"],
        "outputs": outputs[:SHOWN],
        "more": max(0, len(outputs) - SHOWN),
        "kept": kept[:SHOWN],
        "details": sum(each["rows"] for each in record["details"]),
        "unseen": [shown(each) for each in record["unseen"]],
    }
