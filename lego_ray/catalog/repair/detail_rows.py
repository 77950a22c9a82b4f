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
from lego_ray.catalog.failures import read_through
from lego_ray.catalog.merges import details_are_there
from lego_ray.catalog.repair.asking import ask
from lego_ray.catalog.repair.copies import SITE_KEY, Merge, once_each
from lego_ray.catalog.repair.counting import Site, count_msus, counted, wrong_msus, wrong_sites
from lego_ray.catalog.repair.faults import Diagnosis, Fault, Row, plural
from lego_ray.catalog.repair.originals import Originals
from lego_ray.catalog.repair.shares import Sums, sums_of, wrong_shares
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


# By site; of each merge.
Sites = Mapping[str, Mapping[str, Site]]
Judge = Callable[[Merge, pa.Table], list[str]]


def diagnose_sites(
    catalog: Catalog, state: State, merges: Sequence[Row], *, deep: bool
) -> tuple[Diagnosis, dict[str, dict[str, Site]]]:
    """Finds what is wrong with `merge_sites`.

    Args:
        catalog: The catalog.
        state: The table.
        merges: Rows of `merges`, once each.
        deep: Whether to compare values with what was first recorded too.

    Returns:
        What was found; and what is known of each site of each merge.
    """
    columns = [*SITE_KEY, *Site._fields]
    dataset = state.dataset
    rows = read_through(state.uri, lambda: dataset.to_table(columns=columns))
    check_whole("merge_sites", rows)
    mine = {merge["merge_id"]: Merge.of(merge) for merge in merges}
    unpublished: set[str] = set()
    counts: dict[str, dict[str, int]] = {each: {} for each in mine}
    sites: dict[str, dict[str, Site]] = {each: {} for each in mine}
    for row in rows.to_pylist():
        if row["merge_id"] not in mine:
            unpublished.add(row["merge_id"])
        else:
            of = counts[row["merge_id"]]
            of[row["site"]] = of.get(row["site"], 0) + 1
            sites[row["merge_id"]][row["site"]] = _site(row)
    damaged: dict[str, Damage] = {}
    changes = _changes(catalog, "merge_sites", merges, deep=deep)
    for merge_id, found in counts.items():
        merge = mine[merge_id]
        twice = [f"site {site}" for site, number in found.items() if number > 1]
        wrong = wrong_sites(merge, sum(found.values()))
        wrong += changes(merge, partial(_rows, state, merge_id))
        if twice or wrong:
            damaged[merge_id] = Damage(twice[:1], len(twice), wrong)

    def judge(merge: Merge, table: pa.Table) -> list[str]:
        return wrong_sites(merge, table.num_rows) + changes(merge, lambda: table)

    diagnosis = _diagnose(catalog, "merge_sites", state, mine, damaged, judge)
    if diagnosis.change:
        for part in diagnosis.change.rows():
            for row in part.select(columns).to_pylist():
                sites[row["merge_id"]][row["site"]] = _site(row)
    return replace(diagnosis, unpublished=frozenset(unpublished)), sites


def _site(row: Row) -> Site:
    return Site(*(row[name] for name in Site._fields))


def _rows(state: State, merge_id: str) -> pa.Table:
    return state.of_merge(merge_id)[0]


def _changes(
    catalog: Catalog, table: str, merges: Sequence[Row], *, deep: bool
) -> Callable[[Merge, Callable[[], pa.Table]], list[str]]:
    """What says how a merge's rows differ from those that were first recorded."""
    originals = Originals(catalog, table)
    rows = {row["merge_id"]: row for row in merges}

    def changes(merge: Merge, now: Callable[[], pa.Table]) -> list[str]:
        if not deep or not originals.has_any(rows[merge.merge_id]):
            return []
        return originals.changes(rows[merge.merge_id], now(), merge.key(table))

    return changes


def diagnose_msus(
    catalog: Catalog, state: State, merges: Sequence[Row], sites: Sites, *, deep: bool
) -> Diagnosis:
    """Finds what is wrong with `msus`.

    Args:
        catalog: The catalog.
        state: The table.
        merges: Rows of `merges`, once each.
        sites: By `diagnose_sites`.
        deep: Whether to look at shares and distances, and at what was first recorded, too.
    """
    changes = _changes(catalog, "msus", merges, deep=deep)
    methods = {row["merge_id"]: row["method"] for row in merges}
    # Distances of an updated merge are to the centroids of its last full one.
    full = {row["merge_id"] for row in merges if row["parent_id"] is None}

    def wrong_values(merge: Merge, sums: Mapping[str, Sums]) -> list[str]:
        inertias = {s: each.inertia for s, each in sites.get(merge.merge_id, {}).items()}
        method = methods[merge.merge_id]
        return wrong_shares(sums, method, inertias if merge.merge_id in full else {})

    mine = {merge["merge_id"]: Merge.of(merge) for merge in merges}
    damaged: dict[str, Damage] = {}
    for merge_id, site, number in _doubled_msus(state, list(mine.values())):
        damage = damaged.setdefault(merge_id, Damage())
        damage.n_doubled += number
        damage.doubled.append(f"site {site}")
    counts = count_msus(state)
    sums = sums_of(state.uri, state.dataset) if deep else {}
    for merge_id, merge in mine.items():
        wrong = wrong_msus(merge, counts.get(merge_id, {}), sites.get(merge_id, {}))
        if not wrong and merge_id not in damaged:  # else shares are of too many rows or too few
            wrong = wrong_values(merge, sums.get(merge_id, {}))
        wrong += changes(merge, partial(_rows, state, merge_id))
        if wrong:
            damaged.setdefault(merge_id, Damage()).wrong = wrong
    unpublished = frozenset(counts.keys() - mine.keys())

    def judge(merge: Merge, table: pa.Table) -> list[str]:
        found = counted([table]).get(merge.merge_id, {})
        wrong = wrong_msus(merge, found, sites.get(merge.merge_id, {}))
        if deep and not wrong:
            wrong = wrong_values(merge, sums_of(state.uri, table).get(merge.merge_id, {}))
        return wrong + changes(merge, lambda: table)

    found = _diagnose(catalog, "msus", state, mine, damaged, judge, sites)
    return replace(found, unpublished=unpublished)


_DOUBLED = """
    SELECT merge_id, site, count(*)::INTEGER AS keys FROM (
        SELECT merge_id, site, adapter_id, rank_index, copies.number, count(*) AS n,
            CASE WHEN copies.groups THEN NULL ELSE cluster END AS merged_rank
        FROM msus JOIN copies USING (merge_id, adapter_id)
        GROUP BY ALL HAVING count(*) > 1
    ) WHERE n > number
    GROUP BY merge_id, site ORDER BY merge_id, site
"""


def _doubled_msus(state: State, merges: Sequence[Merge]) -> list[tuple[str, str, int]]:
    """Merge, site and number of keys that have more rows than the adapter is in the merge."""
    copies = pa.table(
        {
            "merge_id": pa.array([m.merge_id for m in merges for _ in m.copies], pa.string()),
            "adapter_id": pa.array([a for m in merges for a in m.copies], pa.string()),
            "number": pa.array([n for m in merges for n in m.copies.values()], pa.int64()),
            "groups": pa.array([m.groups for m in merges for _ in m.copies], pa.bool_()),
        }
    )
    found = ask(state.uri, {"msus": state.dataset, "copies": copies}, _DOUBLED)
    return [(merge_id, site, number) for merge_id, site, number in found]


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
        ranks = {name: site.rank for name, site in (sites or {}).get(merge_id, {}).items()}
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
            ranks = {name: site.rank for name, site in (sites or {}).get(merge_id, {}).items()}
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
