"""The records of `build` and `refresh`: what became of a library."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lego_ray.errors import BadInput
from lego_ray.merging.record import (
    MergeRecord,
    entries_set_aside,
    record_of_published,
    seconds_since,
    with_more,
)
from lego_ray.planning.grouped import Grouping
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.source_changes import Attempt
from lego_ray.records import TableRecord, names_of

if TYPE_CHECKING:
    from lego_ray.catalog.tables import Catalog
    from lego_ray.library.current import Found
    from lego_ray.library.places import RefreshPlaces
    from lego_ray.merging.planned import Planned
    from lego_ray.merging.run import Records

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LibraryRecord(TableRecord):
    """What became of a library that was built, or would.

    Attributes:
        output: URI that the merges are below; None if each has its own.
        catalog: URI of the catalog, or None.
        adapters: How many the zoo has.
        counts: How many adapters were found, and what became of them; see `MergeRecord`. Of those that
            are `usable`, `merged` are in one of the merges that were made, and `unmerged` in none.
        refused: Each with `adapter` (URI) and `reason`.
        passed_over: Each with `adapter`, `why` and `checkpoints`, one per training run.
        notes: Each with `adapter` and `note`, on what was set aside.
        merges: The record of each merge, in the recipe's order.
        failed: The merges that could not be made as asked, each with `merge` (name), and `type`,
            `message` and `next` of its error. The others were made.
        groups: What was found for each entry that asks for groups: `name`, `count` and `alone_below` as
            asked, `silhouette`; `groups`, a list of `{name, merge_id, adapters}`; and `alone`, a list
            of adapters: each `{adapter, adapter_id, similarity, nearest_group, nearest_similarity}`.
        dry_run: Whether it was only planned.
        seconds: How long the call took.
        bytes_read: Bytes that the call read.
    """

    rows_of = "merges"
    columns = names_of(MergeRecord)

    output: str | None
    catalog: str | None
    adapters: int
    counts: Mapping[str, int] | None = None
    refused: tuple[Entry, ...]
    passed_over: tuple[Entry, ...]
    notes: tuple[Entry, ...]
    merges: tuple[MergeRecord, ...]
    groups: tuple[Entry, ...]
    dry_run: bool
    seconds: float
    bytes_read: int
    failed: tuple[Entry, ...] = ()

    def __repr__(self) -> str:
        kind = "planned" if self.dry_run else "built"
        return (
            f"<{type(self).__name__} {kind}: {len(self.merges)} merges of {self.adapters} adapters, "
            f"{self.output}>"
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class VersionRecord(MergeRecord):
    """What became of one merge of a library that is refreshed.

    Attributes:
        version: Number of the version that is current now.
    """

    version: int


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RefreshRecord(TableRecord):
    """What became of a refresh.

    Attributes:
        status: `refreshed`, `unchanged` or `busy`.
        holder: Who is at the library, if busy: `host`, `pid`, `job`, `since`, and by the store's clock
            `last_sign_at` and, from when on a silent one is taken over from, `may_be_taken_over_at`;
            else None.
        output: URI of the library.
        catalog: URI of its catalog.
        adapters: How many the zoo has; None if busy.
        counts: As in `LibraryRecord`; None if busy.
        new: Rows of adapters that were written.
        refused: Each with `adapter` (URI) and `reason`.
        passed_over: Each with `adapter`, `why` and `checkpoints`, one per training run.
        notes: Each with `adapter` and `note`, on what was set aside.
        merges: The record of each merge, in the recipe's order.
        failed: As in `LibraryRecord`. Their current versions stay as they are.
        groups: As in `LibraryRecord`.
        seconds: How long the call took.
        bytes_read: Bytes that the call read.
    """

    rows_of = "merges"
    columns = names_of(VersionRecord)

    status: str
    holder: Mapping[str, str] | None = None
    output: str
    catalog: str
    adapters: int | None = None
    counts: Mapping[str, int] | None = None
    new: int = 0
    refused: tuple[Entry, ...] = ()
    passed_over: tuple[Entry, ...] = ()
    notes: tuple[Entry, ...] = ()
    merges: tuple[VersionRecord, ...] = ()
    groups: tuple[Entry, ...] = ()
    seconds: float
    bytes_read: int = 0
    failed: tuple[Entry, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.status}: {len(self.merges)} merges of "
            f"{self.adapters} adapters, {self.new} new, {self.output}>"
        )


def failures_of(failed: Mapping[str, BadInput]) -> tuple[Entry, ...]:
    """Why merges could not be made, as records have it.

    Args:
        failed: Their errors, by name.
    """
    return tuple(
        {
            "merge": name,
            "type": type(error).__name__,
            "message": f"{error.where}: {error.problem}",
            "next": error.hint,
        }
        for name, error in failed.items()
    )


def library_counts(
    inventory: Inventory, planned: Iterable[Planned], records: Mapping[str, MergeRecord]
) -> dict[str, int]:
    """The counts of a library's zoo, as records have them.

    An adapter that turned out bad in one merge counts as refused.

    Args:
        inventory: The zoo.
        planned: Its merges.
        records: The records of those that were made, by name.
    """
    here = {adapter.uri for adapter in inventory.adapters}
    bad = {entry["adapter"] for record in records.values() for entry in record.refused} & here
    merged = {
        adapter.uri
        for each in planned
        if each.recipe.name in records
        for adapter in each.plan.adapters
    } - bad
    counts = inventory.counts.with_bad(len(bad))
    unmerged = counts.usable - len(merged)
    return {**counts.as_json(), "merged": len(merged), "unmerged": unmerged}


def made_of(groupings: Iterable[Grouping], records: Collection[str]) -> list[Grouping]:
    """The groupings all of whose merges were made.

    Args:
        groupings: The groupings.
        records: Names of the merges that were.
    """
    return [each for each in groupings if all(name in records for name in each.groups)]


def record_of_unchanged(
    found: Found,
    places: RefreshPlaces,
    catalog: Catalog,
    attempt: Attempt,
    bytes_read: int,
    started: float,
) -> RefreshRecord:
    """The record of a refresh that has nothing to do.

    Args:
        found: What it found.
        places: The library's places.
        catalog: Its catalog.
        attempt: The try that found it.
        bytes_read: Bytes that the call read.
        started: When the call began, by `time.perf_counter`.
    """
    records = {
        each.recipe.name: record_of_published(
            found.done[each.recipe.name],
            output=each.output,
            catalog=catalog.uri,
            started=started,
            said=each.recipe.notes,
        )
        for each in found.planned
    }
    return record_of_refresh(
        "unchanged",
        found,
        places,
        catalog,
        records,
        found.versions,
        0,
        bytes_read,
        attempt,
        started,
    )


def record_of_refresh(
    status: str,
    found: Found,
    places: RefreshPlaces,
    catalog: Catalog,
    records: Records,
    versions: Mapping[str, int],
    new: int,
    bytes_read: int,
    attempt: Attempt,
    started: float,
    failed: Mapping[str, BadInput] = MappingProxyType({}),
) -> RefreshRecord:
    """The record of a refresh that another did not keep from its work.

    Args:
        status: `refreshed` or `unchanged`.
        found: What its last look found.
        places: The library's places.
        catalog: Its catalog.
        records: The records of its merges, by name.
        versions: Their versions, by name.
        new: Rows of adapters that were written.
        bytes_read: Bytes that the call read.
        attempt: The last try, whose changes its merges warn of.
        started: When the call began, by `time.perf_counter`.
        failed: Why merges that were planned could not be made, by name.
    """
    from lego_ray.library.find_groups import group_record

    names = [each.recipe.name for each in found.planned if each.recipe.name in records]
    return RefreshRecord(
        status=status,
        output=str(places.output),
        catalog=catalog.uri,
        adapters=len(found.inventory.adapters),
        new=new,
        counts=library_counts(found.inventory, found.planned, records),
        **entries_set_aside(found.inventory),
        merges=tuple(
            with_more(records[name].warned(attempt), VersionRecord, version=versions[name])
            for name in names
        ),
        failed=failures_of({**found.failed, **failed}),
        groups=tuple(group_record(each, records) for each in made_of(found.groupings, records)),
        seconds=seconds_since(started),
        bytes_read=bytes_read,
    )
