"""How many rows of details there are, of which sites, ranks and adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from lego_ray.catalog.failures import read_through
from lego_ray.catalog.repair.copies import Merge
from lego_ray.catalog.repair.faults import plural
from lego_ray.catalog.repair.states import State
from lego_ray.catalog.rows import check_whole


class Site(NamedTuple):
    """What `merge_sites` says of a site: its pool, its rank and its inertia."""

    n_msus: int
    rank: int
    inertia: float | None


@dataclass(slots=True)
class Pool:
    """What `msus` has of one site: rows, the highest cluster, and whose they are."""

    rows: int = 0
    highest: int = 0
    adapters: set[str] = field(default_factory=set)


def wrong_sites(merge: Merge, number: int) -> list[str]:
    """What is wrong with a merge's rows in `merge_sites`.

    Args:
        merge: The merge.
        number: How many there are.
    """
    if merge.n_sites is None or number == merge.n_sites:
        return []
    return [f"it has {plural(number, 'row')}, {merge.n_sites} were recorded"]


def wrong_msus(merge: Merge, found: Mapping[str, Pool], sites: Mapping[str, Site]) -> list[str]:
    """What is wrong with a merge's rows in `msus`, a sentence each.

    Args:
        merge: The merge.
        found: Its rows, by site.
        sites: What `merge_sites` says of its sites.
    """
    wrong: list[str] = []
    total = sum(pool.rows for pool in found.values())
    whole = sum(site.n_msus for site in sites.values())
    # What came before the number was recorded has all or none.
    expected = (whole if total else 0) if merge.n_msus is None else merge.n_msus
    if total != expected:
        wrong.append(f"it has {plural(total, 'row')}, {expected} were recorded")
    if not total:
        return wrong
    for site in sorted(found.keys() | sites.keys()):
        pool, (n_msus, rank, _) = found.get(site, Pool()), sites.get(site, Site(0, 0, None))
        if merge.groups and pool.rows != n_msus:
            wrong.append(f"{site} has {plural(pool.rows, 'row')}, its pool {n_msus} MSUs")
        elif pool.rows and pool.highest >= rank:
            wrong.append(f"{site} has a cluster {pool.highest}, but its rank is {rank}")
    strange = sorted({a for pool in found.values() for a in pool.adapters} - merge.copies.keys())
    if strange:
        first = f"{strange[0][:12]} first"
        wrong.append(f"it names {len(strange)} adapters that the merge does not have, {first}")
    return wrong


def count_msus(state: State) -> dict[str, dict[str, Pool]]:
    """What there is of each site of each merge, batch by batch, for it may be large.

    Args:
        state: The table `msus`.
    """
    columns = ["merge_id", "site", "adapter_id", "cluster"]
    dataset = state.dataset

    def count() -> dict[str, dict[str, Pool]]:
        batches = dataset.to_batches(columns=columns)
        return counted(pa.Table.from_batches([batch]) for batch in batches)

    return read_through(state.uri, count)


def counted(parts: Iterable[pa.Table]) -> dict[str, dict[str, Pool]]:
    """What there is of each site of each merge in some rows.

    Args:
        parts: The rows.
    """
    found: dict[str, dict[str, Pool]] = {}
    keys = ["merge_id", "site", "adapter_id"]
    for part in parts:
        check_whole("msus", part)
        groups = part.group_by(keys, use_threads=False)
        for row in groups.aggregate([([], "count_all"), ("cluster", "max")]).to_pylist():
            pool = found.setdefault(row["merge_id"], {}).setdefault(row["site"], Pool())
            pool.rows += row["count_all"]
            pool.highest = max(pool.highest, row["cluster_max"])
            pool.adapters.add(row["adapter_id"])
    return found
