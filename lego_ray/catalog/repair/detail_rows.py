"""`merge_sites` and `msus`: doubled, wrong and lost rows of merges that are recorded.

Details never change once they are written. So those of a merge are right or they are not, as a whole;
where the doubled ones are taken out and it is still not right, a former state of the table may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa

from lego_ray.catalog.changes import Exchange
from lego_ray.catalog.failures import read_through, translate
from lego_ray.catalog.merges import details_are_there
from lego_ray.catalog.repair.copies import SITE_KEY, Merge, once_each
from lego_ray.catalog.repair.faults import Diagnosis, Fault, Row, plural
from lego_ray.catalog.repair.states import State, former_states
from lego_ray.catalog.rows import check_whole
from lego_ray.catalog.tables import Catalog


@dataclass(slots=True)
class Damage:
    """What is wrong with one merge's rows in one table.

    Attributes:
        doubled: Keys with more rows than they should have, as text; some of them.
        n_doubled: How many there are.
        wrong: What else is wrong, a sentence each.
    """

    doubled: list[str] = field(default_factory=list)
    n_doubled: int = 0
    wrong: list[str] = field(default_factory=list)


# Which pools and ranks sites have, by site; of each merge.
Sites = Mapping[str, Mapping[str, tuple[int, int]]]
Judge = Callable[[Merge, pa.Table], list[str]]


def diagnose_sites(
    catalog: Catalog, state: State, merges: Sequence[Row]
) -> tuple[Diagnosis, dict[str, dict[str, tuple[int, int]]]]:
    """Finds what is wrong with `merge_sites`.

    Args:
        catalog: The catalog.
        state: The table.
        merges: Rows of `merges`, once each.

    Returns:
        What was found; and pool and rank of each site of each merge, as far as they are known.
    """
    columns = [*SITE_KEY, "n_msus", "rank"]
    dataset = state.dataset
    rows = read_through(state.uri, lambda: dataset.to_table(columns=columns))
    check_whole("merge_sites", rows)
    mine = {merge["merge_id"]: Merge.of(merge) for merge in merges}
    unpublished: set[str] = set()
    counts: dict[str, dict[str, int]] = {each: {} for each in mine}
    sites: dict[str, dict[str, tuple[int, int]]] = {each: {} for each in mine}
    for row in rows.to_pylist():
        if row["merge_id"] not in mine:
            unpublished.add(row["merge_id"])
        else:
            of = counts[row["merge_id"]]
            of[row["site"]] = of.get(row["site"], 0) + 1
            sites[row["merge_id"]][row["site"]] = (row["n_msus"], row["rank"])
    damaged: dict[str, Damage] = {}
    for merge_id, found in counts.items():
        twice = [f"site {site}" for site, number in found.items() if number > 1]
        wrong = _wrong_sites(mine[merge_id], sum(found.values()))
        if twice or wrong:
            damaged[merge_id] = Damage(twice[:1], len(twice), wrong)

    def judge(merge: Merge, table: pa.Table) -> list[str]:
        return _wrong_sites(merge, table.num_rows)

    diagnosis = _diagnose(catalog, "merge_sites", state, mine, damaged, judge)
    if diagnosis.change:
        for part in diagnosis.change.rows():
            for row in part.select(columns).to_pylist():
                sites[row["merge_id"]][row["site"]] = (row["n_msus"], row["rank"])
    return replace(diagnosis, unpublished=frozenset(unpublished)), sites


def diagnose_msus(catalog: Catalog, state: State, merges: Sequence[Row], sites: Sites) -> Diagnosis:
    """Finds what is wrong with `msus`.

    Args:
        catalog: The catalog.
        state: The table.
        merges: Rows of `merges`, once each.
        sites: By `diagnose_sites`.
    """
    mine = {merge["merge_id"]: Merge.of(merge) for merge in merges}
    damaged: dict[str, Damage] = {}
    for merge_id, site, number in _doubled_msus(state, list(mine.values())):
        damage = damaged.setdefault(merge_id, Damage())
        damage.n_doubled += number
        damage.doubled.append(f"site {site}")
    counts = _count_msus(state)
    for merge_id, merge in mine.items():
        wrong = _wrong_msus(merge, counts.get(merge_id, {}), sites.get(merge_id, {}))
        if wrong:
            damaged.setdefault(merge_id, Damage()).wrong = wrong
    unpublished = frozenset(counts.keys() - mine.keys())

    def judge(merge: Merge, table: pa.Table) -> list[str]:
        found = _counted([table]).get(merge.merge_id, {})
        return _wrong_msus(merge, found, sites.get(merge.merge_id, {}))

    found = _diagnose(catalog, "msus", state, mine, damaged, judge, sites)
    return replace(found, unpublished=unpublished)


@dataclass(slots=True)
class _Pool:
    """What `msus` has of one site: rows, the highest cluster, and whose they are."""

    rows: int = 0
    highest: int = 0
    adapters: set[str] = field(default_factory=set)


def _wrong_sites(merge: Merge, number: int) -> list[str]:
    if merge.n_sites is None or number == merge.n_sites:
        return []
    return [f"it has {plural(number, 'row')}, {merge.n_sites} were recorded"]


def _wrong_msus(
    merge: Merge, found: Mapping[str, _Pool], sites: Mapping[str, tuple[int, int]]
) -> list[str]:
    wrong: list[str] = []
    total = sum(pool.rows for pool in found.values())
    whole = sum(n_msus for n_msus, _ in sites.values())
    # What came before the number was recorded has all or none.
    expected = (whole if total else 0) if merge.n_msus is None else merge.n_msus
    if total != expected:
        wrong.append(f"it has {plural(total, 'row')}, {expected} were recorded")
    if not total:
        return wrong
    for site in sorted(found.keys() | sites.keys()):
        pool, (n_msus, rank) = found.get(site, _Pool()), sites.get(site, (0, 0))
        if merge.groups and pool.rows != n_msus:
            wrong.append(f"{site} has {plural(pool.rows, 'row')}, its pool {n_msus} MSUs")
        elif pool.rows and pool.highest >= rank:
            wrong.append(f"{site} has a cluster {pool.highest}, but its rank is {rank}")
    strange = sorted({a for pool in found.values() for a in pool.adapters} - merge.copies.keys())
    if strange:
        first = f"{strange[0][:12]} first"
        wrong.append(f"it names {len(strange)} adapters that the merge does not have, {first}")
    return wrong


def _count_msus(state: State) -> dict[str, dict[str, _Pool]]:
    """What there is of each site, batch by batch, for it may be large."""
    columns = ["merge_id", "site", "adapter_id", "cluster"]
    dataset = state.dataset

    def counted() -> dict[str, dict[str, _Pool]]:
        batches = dataset.to_batches(columns=columns)
        return _counted(pa.Table.from_batches([batch]) for batch in batches)

    return read_through(state.uri, counted)


def _counted(parts: Iterator[pa.Table] | Sequence[pa.Table]) -> dict[str, dict[str, _Pool]]:
    found: dict[str, dict[str, _Pool]] = {}
    keys = ["merge_id", "site", "adapter_id"]
    for part in parts:
        check_whole("msus", part)
        groups = part.group_by(keys, use_threads=False)
        for row in groups.aggregate([([], "count_all"), ("cluster", "max")]).to_pylist():
            pool = found.setdefault(row["merge_id"], {}).setdefault(row["site"], _Pool())
            pool.rows += row["count_all"]
            pool.highest = max(pool.highest, row["cluster_max"])
            pool.adapters.add(row["adapter_id"])
    return found


_DOUBLED = """
    SELECT merge_id, site, count(*)::INTEGER AS keys FROM (
        SELECT merge_id, site, adapter_id, rank_index, copies.number, count(*) AS n,
            CASE WHEN copies.groups THEN NULL ELSE cluster END AS merged_rank
        FROM msus JOIN copies USING (merge_id, adapter_id)
        GROUP BY ALL HAVING count(*) > 1
    ) WHERE n > number
    GROUP BY merge_id, site ORDER BY merge_id, site
"""
# Beyond this DuckDB goes on in a folder on disk.
_MEMORY = "1GB"


def _doubled_msus(state: State, merges: Sequence[Merge]) -> list[tuple[str, str, int]]:
    """Merge, site and number of keys that have more rows than the adapter is in the merge."""
    import tempfile

    import duckdb

    copies = pa.table(
        {
            "merge_id": pa.array([m.merge_id for m in merges for _ in m.copies], pa.string()),
            "adapter_id": pa.array([a for m in merges for a in m.copies], pa.string()),
            "number": pa.array([n for m in merges for n in m.copies.values()], pa.int64()),
            "groups": pa.array([m.groups for m in merges for _ in m.copies], pa.bool_()),
        }
    )
    dataset = state.dataset

    def asked() -> list[tuple[str, str, int]]:
        with tempfile.TemporaryDirectory(prefix="lego-ray-") as spill:
            config: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": _MEMORY,
                "temp_directory": spill,
            }
            with duckdb.connect(":memory:", config=config) as connection:
                connection.register("msus", dataset)
                connection.register("copies", copies)
                try:
                    return connection.execute(_DOUBLED).fetchall()
                except duckdb.Error as error:  # such as a file of the table that is not there
                    raise translate(state.uri, error) from error

    return read_through(state.uri, asked)


def _diagnose(
    catalog: Catalog,
    table: str,
    state: State,
    merges: Mapping[str, Merge],
    damaged: Mapping[str, Damage],
    judge: Judge,
    sites: Sites | None = None,
) -> Diagnosis:
    faults: list[Fault] = []
    sources: dict[str, State] = {}
    removed = added = 0
    for merge_id, damage in damaged.items():
        merge = merges[merge_id]
        ranks = {site: rank for site, (_, rank) in (sites or {}).get(merge_id, {}).items()}
        now, _ = state.of_merge(merge_id)
        found, repair = None, ""
        for number, each in enumerate(_states(catalog, table, state)):
            right = once_each(table, *each.of_merge(merge_id), merge, ranks)
            if right is not None and not judge(merge, right):
                found = each
                repair = "take them from the table's history"
                if number == 0:
                    repair = "keep each row once"
                    if not damage.n_doubled:
                        repair = "leave out the rows that the merge cannot have"
                break
        if found is None and damage.n_doubled:
            right = once_each(table, *state.of_merge(merge_id), merge, ranks)
            if right is not None:  # something is lost too, but what is doubled can go
                found, repair = state, "keep each row once"
        if found is not None:
            sources[merge_id] = found
            right = once_each(table, *found.of_merge(merge_id), merge, ranks)
            size = 0 if right is None else right.num_rows
            removed, added = (
                removed + max(0, now.num_rows - size),
                added + max(0, size - now.num_rows),
            )
        faults += _told(table, merge, damage, repair)
    if not sources:
        return Diagnosis(table, faults)

    def parts() -> Iterator[pa.Table]:
        for merge_id, source in sources.items():
            ranks = {site: rank for site, (_, rank) in (sites or {}).get(merge_id, {}).items()}
            right = once_each(table, *source.of_merge(merge_id), merges[merge_id], ranks)
            if right is not None:
                for name in set(state.schema.names) - set(right.column_names):
                    nothing = pa.nulls(right.num_rows, state.schema.field(name).type)
                    right = right.append_column(name, nothing)
                yield right.select(state.schema.names)

    change = Exchange(
        parts, state.schema, list(sources), tuple(map(partial(_next, state), sources))
    )
    return Diagnosis(table, faults, removed, added, 0, change)


def _states(catalog: Catalog, table: str, state: State) -> Iterator[State]:
    yield state
    yield from former_states(catalog, table)


def _next(state: State, merge_id: str) -> tuple[str, int]:
    """The version that says that a merge's details are there, and were written again."""
    version = state.handle.transaction_version(merge_id) or 0
    return merge_id, version + 1 + details_are_there(version)


def _told(table: str, merge: Merge, damage: Damage, repair: str) -> list[Fault]:
    key = f"merge_id {merge.merge_id[:12]}"
    faults: list[Fault] = []
    if damage.n_doubled:
        more = f", {plural(damage.n_doubled, 'key')} in all" if damage.n_doubled > 1 else ""
        problem = f"it has duplicate rows{more}"
        where = f"{key}, {damage.doubled[0]}"
        faults.append(Fault(table, where, problem, repair, merge.merge_id))
    faults += [Fault(table, key, each, repair, merge.merge_id) for each in damage.wrong]
    return faults
