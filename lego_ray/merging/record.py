"""The record of a merge: what a call returns, and what `--json` prints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypedDict, TypeVar

from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.counts import Counts
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan, set_aside
from lego_ray.planning.source_changes import Attempt, warning
from lego_ray.records import Record

Entry = Mapping[str, Any]
More = TypeVar("More", bound="MergeRecord")

PUBLISHED, ALREADY, PLANNED = "published", "already published", "planned"
# What is known only once a merge was made.
_OF_A_RUN = (
    *("ranks", "nearest_error", "seconds", "bytes_read", "resumed_sites", "runner", "advice"),
)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MergeRecord(Record):
    """What became of one merge. Keys are its attributes: `record["status"]` is `record.status`.

    Attributes:
        merge_id: The digest of its plan, hex; None of one whose ranks are not chosen yet.
        name: Its name.
        status: `published`, `already published`, or `planned` of a dry run.
        output: URI of the merged adapter.
        catalog: URI of the catalog, or None.
        adapters: URIs of the adapters that are merged, in the plan's order.
        refused: Each with `adapter` (URI) and `reason`.
        passed_over: Each with `adapter`, `why` and `checkpoints`, one per training run.
        notes: Each with `adapter` and `note`, on what was set aside.
        counts: How many adapters were found (`found`), and what became of them: `usable` (those that
            are merged), `refused`, `passed_over`, `excluded`, `other_base`, `not_chosen` and
            `zero_weight`, which add up to `found`. None if nothing was scanned. An update counts those
            to add.
        sites: How many sites the merge has.
        rank: The largest rank; None while it is to be chosen.
        ranks: Rank by site, if they were chosen by a budget.
        nearest_error: Relative error of the nearest adapter of these ranks to the sum of the updates,
            where the ranks were chosen by it.
        method: Name of the method.
        seconds: How long the call took.
        bytes_read: Bytes that the call read.
        resumed_sites: Sites taken from an earlier, unfinished run.
        runner: What ran the others: `ray` or `inline`; None if there were none.
        licenses: Of the adapters, each once.
        warnings: What the user should know.
        advice: What to try next, if this call made the merge and its numbers call for it; see
            `advice.advice_of`. None otherwise.
    """

    merge_id: str | None
    name: str
    status: str
    output: str
    catalog: str | None
    adapters: tuple[str, ...]
    refused: tuple[Entry, ...]
    passed_over: tuple[Entry, ...]
    notes: tuple[Entry, ...]
    counts: Mapping[str, int] | None = None
    sites: int
    rank: int | None
    ranks: Mapping[str, int] | None = None
    nearest_error: float | None = None
    method: str
    seconds: float = 0.0
    bytes_read: int = 0
    resumed_sites: int = 0
    runner: str | None = None
    licenses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    advice: str | None = None

    def _known(self) -> list[str]:
        """Names of the attributes that this record has a value for."""
        left_out = _OF_A_RUN if self.status == PLANNED else ()
        return [name for name in super()._known() if name not in left_out]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name}: {self.status}, {len(self.adapters)} adapters, "
            f"{self.sites} sites, rank {self.rank}, {self.output}>"
        )

    def _shown(self) -> tuple[str, Mapping[str, Any]]:
        return f"{self.name}: {self.status}", {
            "output": self.output,
            "adapters": len(self.adapters),
            "refused": len(self.refused),
            "sites": self.sites,
            "rank": self.rank,
            "method": self.method,
            "warnings": "; ".join(self.warnings) or "none",
        }

    def warned(self, attempt: Attempt) -> Self:
        """The record of one merge of several, with the warnings about its own adapters."""
        mine = {*self.adapters, *(refused["adapter"] for refused in self.refused)}
        about = (warning(error) for error in attempt.changes if error.adapter in mine)
        return replace(self, warnings=(*self.warnings, *about))

    def after(self, attempt: Attempt) -> Self:
        """The record of a run's last attempt, with the warnings and the bytes of those before."""
        return replace(
            self,
            warnings=(*self.warnings, *map(warning, attempt.changes)),
            bytes_read=self.bytes_read + (attempt.bytes_read if attempt.changes else 0),
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class UpdateRecord(MergeRecord):
    """What became of an update: its new version.

    Attributes:
        parent: The merge_id of the version before; None of a merge that follows none.
        version: Number of this one.
        added: URIs of the adapters that were added.
        removed: URIs of those that were removed.
        skipped_sites: Sites of added adapters that the merge does not have.
        drift: How far the version is from a full merge of its adapters; None if that is not known.
        refit_above: The drift from which a refit is advised.
        refit_advised: Whether it is.
        site_drift: The drift of each site.
    """

    parent: str | None
    version: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    skipped_sites: tuple[str, ...] = ()
    drift: float | None
    refit_above: float
    refit_advised: bool = False
    site_drift: tuple[Entry, ...] = ()


def record_of(
    plan: Plan,
    *,
    status: str,
    output: str,
    catalog: str | None,
    started: float,
    bytes_read: int = 0,
    resumed_sites: int = 0,
    runner: str | None = None,
) -> MergeRecord:
    """The record of a plan that was carried out now, or only made.

    Args:
        plan: The plan.
        status: What became of it.
        output: URI of the merged adapter.
        catalog: URI of the catalog, or None.
        started: When the call began, by `time.perf_counter`.
        bytes_read: Bytes that the call read.
        resumed_sites: Sites taken from an earlier run.
        runner: What ran the others, if there were any.
    """
    is_planned = status == PLANNED
    return MergeRecord(
        merge_id=None if is_planned and plan.recipe.is_open else plan.digest,
        name=plan.recipe.name,
        status=status,
        output=output,
        catalog=catalog,
        adapters=tuple(adapter.uri for adapter in plan.adapters),
        **entries_set_aside(plan),
        counts=None if plan.counts is None else plan.counts.as_json(),
        sites=plan.n_sites,
        rank=plan.recipe.rank if is_planned else plan.rank,
        ranks=dict(plan.recipe.ranks) or None,
        nearest_error=plan.nearest_error,
        method=plan.recipe.method,
        seconds=seconds_since(started),
        bytes_read=bytes_read,
        resumed_sites=resumed_sites,
        runner=runner,
        licenses=tuple(plan.licenses),
        warnings=tuple(plan.warnings),
    )


def record_of_published(
    manifest: Mapping[str, Any],
    *,
    output: str,
    catalog: str | None,
    started: float,
    bytes_read: int = 0,
    plan: Plan | None = None,
    said: Sequence[str] = (),
) -> MergeRecord:
    """The record of a merge that was published before: nothing was done.

    Args:
        manifest: Its manifest.
        output: URI of the merged adapter.
        catalog: URI of the catalog, or None.
        started: When the call began, by `time.perf_counter`.
        bytes_read: Bytes that the call read.
        plan: The plan that was made for it now, if one was: it says what was set aside.
        said: The notes of the recipe that asks for it now.
    """
    sources = manifest["sources"]
    notes = [{"adapter": s["uri"], "note": note} for s in sources for note in s.get("notes", ())]
    refused = [{"adapter": r["adapter"], "reason": r["reason"]} for r in manifest["refused"]]
    aside: Aside = {"refused": tuple(refused), "passed_over": (), "notes": tuple(notes)}
    counts = None
    if plan:
        if plan.counts is not None:
            counts = without_bad_ones(plan.counts, plan.adapters, refused).as_json()
        aside = {**entries_set_aside(plan), "refused": tuple(refused)}
        aside["notes"] = _with_measured(aside["notes"], notes)
    recipe = manifest["recipe"]
    return MergeRecord(
        merge_id=manifest["merge_id"],
        name=manifest["name"],
        status=ALREADY,
        output=output,
        catalog=catalog,
        adapters=tuple(source["uri"] for source in sources),
        **aside,
        counts=counts,
        sites=manifest["sites"],
        rank=recipe["rank"],
        ranks=recipe.get("ranks") or None,
        nearest_error=manifest.get("nearest_error"),
        method=recipe["method"],
        seconds=seconds_since(started),
        bytes_read=bytes_read,
        licenses=tuple(manifest.get("licenses", ())),
        warnings=(
            *said,
            *manifest.get("license_conflicts", ()),
            *manifest.get("warnings", manifest.get("limits", ())),
        ),
    )


def without_bad_ones(
    counts: Counts, adapters: Iterable[AdapterRecord], refused: Iterable[Entry]
) -> Counts:
    """The counts of a plan, after adapters whose weights turned out bad were refused.

    Args:
        counts: Those of the plan.
        adapters: The adapters that were planned.
        refused: Those that were refused in the end, as records list them.
    """
    planned = {adapter.uri for adapter in adapters}
    bad = sum(entry["adapter"] in planned for entry in refused)
    return counts.with_bad(bad)


def _with_measured(planned: tuple[Entry, ...], published: Sequence[Entry]) -> tuple[Entry, ...]:
    """A plan's notes, with those that the run that published it could add to them."""
    out = list(planned)
    for uri in dict.fromkeys(note["adapter"] for note in published):
        then = [note for note in published if note["adapter"] == uri]
        now = [note for note in planned if note["adapter"] == uri]
        if all(note in then for note in now):  # or they are of another release
            out += [note for note in then if note not in now]
    return tuple(out)


def with_more(record: MergeRecord, kind: type[More], **told: Any) -> More:
    """A record of a kind that has more: that of the merge, and what else the kind has."""
    mine = {f.name: getattr(record, f.name) for f in fields(MergeRecord)}
    return kind(**{**mine, **told})


class Aside(TypedDict):
    """What a record says of what was not merged, though it lies in a source."""

    refused: tuple[Entry, ...]
    passed_over: tuple[Entry, ...]
    notes: tuple[Entry, ...]


def entries_set_aside(taken: Plan | Inventory) -> Aside:
    """`refused`, `passed_over` and `notes` of a record."""
    found = set_aside(taken.passed_over, taken.adapters)
    return {
        "refused": tuple(each.as_json() for each in taken.refused),
        "passed_over": tuple(found["passed_over"]),
        "notes": tuple(found["notes"]),
    }


def seconds_since(started: float) -> float:
    """Seconds since a reading of `time.perf_counter`, to the millisecond."""
    return round(time.perf_counter() - started, 3)
