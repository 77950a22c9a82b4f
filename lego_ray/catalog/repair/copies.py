"""Each row of a merge's details once: the copies of it that are too many left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.repair.faults import Row, taken
from lego_ray.catalog.schema import GROUPING

SITE_KEY = ("merge_id", "site")
_MSU_KEY = (*SITE_KEY, "adapter_id", "rank_index")


@dataclass(frozen=True, slots=True)
class Merge:
    """What a row of `merges` says of the merge's details.

    Attributes:
        merge_id: Its id.
        name: Its name.
        version: Its version.
        n_sites: Rows it has in `merge_sites`; None if that was not recorded.
        n_msus: Rows it has in `msus`; the same.
        copies: How often each adapter is in it; one that lies at two places is merged twice.
        groups: Whether its method groups MSUs, so that each has one row; else an MSU has one for each
            merged rank that names it.
    """

    merge_id: str
    name: str
    version: int
    n_sites: int | None
    n_msus: int | None
    copies: Mapping[str, int]
    groups: bool = True

    @classmethod
    def of(cls, row: Row) -> Merge:
        """From its row, which may be of a release before the numbers were recorded."""
        return cls(
            row["merge_id"],
            row["name"],
            row["version"],
            row.get("n_sites"),
            row.get("n_msus"),
            Counter(row["adapter_ids"]),
            row["method"] in GROUPING,
        )

    def key(self, table: str) -> list[str]:
        """The columns that one row of its details is known by.

        Args:
            table: `merge_sites` or `msus`.
        """
        if table == "merge_sites":
            return list(SITE_KEY)
        return [*_MSU_KEY] if self.groups else [*_MSU_KEY, "cluster"]


def once_each(
    table: str,
    rows: pa.Table,
    written: Sequence[int],
    merge: Merge,
    ranks: Mapping[str, int],
) -> pa.Table | None:
    """Leaves out the rows that are there too often.

    Of rows with one key that differ, those go that the merge cannot have, and then those that were
    written later, for details are written once.

    Args:
        table: `merge_sites` or `msus`.
        rows: The merge's rows.
        written: By `State.read`, of each.
        merge: The merge.
        ranks: Rank of each site; for `msus`.

    Returns:
        The rows, or None if it cannot be said which of those with one key is right.
    """
    possible = rows.filter(_possible(rows, merge, ranks)) if table == "msus" else rows
    # Where an MSU may have a row for every merged rank, no other row tells that one is impossible.
    found = _leave_out(table, rows if merge.groups else possible, merge)
    if found is not None:
        return found
    found = _leave_out(table, possible, merge)
    if found is not None:
        return found
    return _leave_out(table, _first(rows, written, merge.key(table)), merge)


def _leave_out(table: str, rows: pa.Table, merge: Merge) -> pa.Table | None:
    """Each distinct row as often as it should be there; None if rows of one key differ otherwise."""
    keys = merge.key(table)
    names = rows.column_names
    distinct = rows.group_by(names, use_threads=False).aggregate([([], "count_all")])
    totals = distinct.group_by(keys, use_threads=False).aggregate([("count_all", "sum")])
    both = distinct.select([*keys, "count_all"]).append_column(
        "at", pa.array(range(distinct.num_rows), pa.int64())
    )
    both = both.join(totals, keys, use_threads=False).sort_by("at")
    counts, sums = both["count_all"].to_pylist(), both["count_all_sum"].to_pylist()
    if table == "msus":
        wanted = [merge.copies.get(each, 1) for each in both["adapter_id"].to_pylist()]
    else:
        wanted = [1] * len(counts)
    places: list[int] = []
    for at, (count, total, number) in enumerate(zip(counts, sums, wanted, strict=True)):
        if total <= number:
            copies = count
        elif count * number % total:
            return None
        else:
            copies = count * number // total
        places += [at] * copies
    return taken(distinct.select(names), places)


def _possible(rows: pa.Table, merge: Merge, ranks: Mapping[str, int]) -> pa.ChunkedArray:
    sites = pa.array(list(ranks), pa.string())
    limits = pa.array(list(ranks.values()), pa.int64())
    limit = limits.take(pc.index_in(rows["site"], sites))
    fits = pc.fill_null(pc.less(rows["cluster"], limit), False)
    mine = pc.is_in(rows["adapter_id"], pa.array(list(merge.copies), pa.string()))
    return pc.and_(fits, mine)


def _first(rows: pa.Table, written: Sequence[int], keys: list[str]) -> pa.Table:
    """Of the rows with each key those that were written first."""
    timed = rows.append_column("__written", pa.array(written, pa.int64())).append_column(
        "__at", pa.array(range(rows.num_rows), pa.int64())
    )
    first = timed.group_by(keys, use_threads=False).aggregate([("__written", "min")])
    joined = timed.select([*keys, "__written", "__at"]).join(first, keys, use_threads=False)
    early = joined.filter(pc.equal(joined["__written"], joined["__written_min"])).sort_by("__at")
    return rows.take(early["__at"])
