"""Refreshes a library: what is new since the last time is scanned, merged and recorded, nothing else.

<output>/<merge name>/<first 12 digits of the plan>/   one directory a version, never changed
<output>/.lego-ray/refresh/                            a lease, while someone is at it
<output>/.lego-ray/unchanged/                          what was found when there was nothing to do
<output>/.lego-ray/readings/                           what was read of headers

The current version of a merge is its row of the highest `version` in the catalog.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from lego_ray import journal
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import make_current
from lego_ray.catalog.opening import catalog_at, check_before_writing
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure, last_tenure
from lego_ray.catalog.upkeep.durations import parse_duration
from lego_ray.errors import BadInput, InvalidOption, SourceChanged
from lego_ray.library.build import record_groupings
from lego_ray.library.current import Found
from lego_ray.library.find_groups import GroupFinder
from lego_ray.library.looks import Looks
from lego_ray.library.places import RefreshPlaces
from lego_ray.library.record import RefreshRecord, made_of, record_of_refresh
from lego_ray.merging.planned import make_planned
from lego_ray.merging.record import seconds_since
from lego_ray.merging.stages import Stages
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.checkpoints.run_folder import REFRESH_FOLDER
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import KnowsProcesses, Runner
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.lease import BEAT, Lease, leased, told
from lego_ray.tasks.values import Progress

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan
    from lego_ray.tasks.values import TaskResult

# The lease's number is in the catalog under this and the library's place.
TURN = "lego-ray.refresh"
# Three beats may get lost before a holder is taken for dead.
_SHORTEST = 4 * BEAT


def run_refresh(
    library: LibraryRecipe,
    places: RefreshPlaces,
    *,
    opening: Callable[[], AbstractContextManager[Runner]],
    memory_budget: int,
    strict: bool,
    stale_after: timedelta,
    progress: Progress,
    started: float,
) -> RefreshRecord:
    """Brings a library up to date; see `api.refresh` for the promise.

    Args:
        library: The library.
        places: Its places, from `places_to_refresh`.
        opening: Opens what runs the tasks, which is not started while another is at the library.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        stale_after: How long another must have given no sign of life to count as dead.
        progress: Called with each plan that is run (result None), and with each result.
        started: When the call began, by `time.perf_counter`.
    """
    opened = catalog_at(places.catalog)
    turn, owner = f"{TURN}:{places.output}", _owner()

    with opening() as runner:

        def lease() -> Lease:
            """A lease for one try: each takes it again, under another number."""
            return Lease(
                places.output.open(),
                REFRESH_FOLDER,
                owner,
                stale_after=stale_after,
                above=lambda: last_tenure(opened, turn),
                has_ended=partial(_has_ended, runner),
            )

        if holder := lease().holder():
            return _busy(places, opened, holder, started)

        def attempted(attempt: Attempt) -> RefreshRecord:
            finder = GroupFinder(runner, memory_budget, attempt.strict, progress)
            looks = Looks(library, places, opened, memory_budget, attempt, finder, started)
            return _refresh_once(looks, lease(), turn, owner, runner, progress)

        return rescanning(attempted, strict=strict)


def _refresh_once(
    looks: Looks,
    lease: Lease,
    turn: str,
    owner: Mapping[str, str],
    runner: Runner,
    progress: Progress,
) -> RefreshRecord:
    """Brings a library up to date with what is there now; see `refresh`.

    Raises:
        SourceChanged: If a file of an adapter is not the one that was scanned.
    """
    places, opened, attempt = looks.places, looks.catalog, looks.attempt
    failed: dict[str, BadInput] = {}
    before = looks.state()
    if before is not None and (record := looks.recall(before)) is not None:
        return record
    try:
        found = looks.look()
        if found.is_current:
            lease.sweep(also=partial(_clear_checkpoints, found))
            record = looks.unchanged(found)
            looks.keep_readings()
            if found.has_new_marks:  # or each refresh would read those files whole again
                record_adapters(opened, found.rows)
            else:
                looks.keep(before, record)
            return record
        known_by: Mapping[str, str] = {}
        if len(found.done) < len(found.planned):
            runner.start()
            known_by = runner.presence() if isinstance(runner, KnowsProcesses) else {}
        with leased(lease, known_by) as holder:
            if holder is not None:
                return _busy(places, opened, holder, looks.started)
            check_before_writing(opened)
            # Before the look: whoever is taken over from must not bring what it found earlier.
            tenure = Tenure(turn, lease.number, owner)
            tenure.claim(opened, ("merges", "groups") if found.groupings else ("merges",))
            # Once more: another may have finished since, and be ahead of what was found.
            found = looks.look()
            if len(found.done) < len(found.planned):
                runner.start()
            tenure.check_now(opened)
            new = record_adapters(opened, found.rows)

            def watched(plan: Plan, result: TaskResult | None) -> None:
                lease.check()
                progress(plan, result)

            records, bytes_read = make_planned(
                found.planned,
                opened,
                runner,
                attempt=attempt,
                memory_budget=looks.memory_budget,
                progress=watched,
                started=looks.started,
                stages=Stages(),
                tenure=tenure,
                failed=None if attempt.strict else failed,
            )
            tenure.check_now(opened)
            record_groupings(opened, made_of(found.groupings, records), records, tenure)
            versions = {
                name: make_current(opened, str(merge.merge_id), tenure)
                for name, merge in records.items()
            }
    except SourceChanged:
        attempt.bytes_read += looks.bytes_read + looks.finder.bytes_read
        raise
    read = looks.bytes_read + looks.finder.bytes_read + bytes_read + attempt.bytes_read
    record = record_of_refresh(
        "refreshed",
        found,
        places,
        opened,
        records,
        versions,
        new,
        read,
        attempt,
        looks.started,
        failed,
    )
    looks.keep_readings()
    looks.keep_after_work()
    return record


def checked_silence(stale_after: str | timedelta) -> timedelta:
    """How long another must be silent to count as dead.

    Raises:
        InvalidOption: If it is not a duration, or too short for a beat to be late.
    """
    duration = parse_duration("--stale-after", stale_after)
    if duration < _SHORTEST:
        raise InvalidOption(
            "--stale-after",
            f"it is shorter than {_SHORTEST.total_seconds():.0f} s, so one that is at work may be "
            "taken for dead",
            "Give 1m or more.",
        )
    return duration


def _has_ended(runner: Runner, known_by: Mapping[str, str]) -> bool:
    """Whether a holder of the lease has ended, as far as the runner knows."""
    return isinstance(runner, KnowsProcesses) and runner.has_ended(known_by)


def _clear_checkpoints(found: Found) -> None:
    """Deletes finished tasks that a refresh kept which was killed after it had recorded all merges."""
    for each in found.planned:
        Checkpoints(each.place.open(), each.plan).clear()


def _busy(
    places: RefreshPlaces, catalog: Catalog, holder: dict[str, str], started: float
) -> RefreshRecord:
    journal.note("busy", "", output=str(places.output), holder=told(holder))
    return RefreshRecord(
        status="busy",
        holder=holder,
        output=str(places.output),
        catalog=catalog.uri,
        seconds=seconds_since(started),
    )


def _owner() -> dict[str, str]:
    """Who this process is, for people: its clock is compared with no other."""
    owner = {"host": socket.gethostname(), "pid": str(os.getpid())}
    # What Ray tells the entry point of a job about it.
    with contextlib.suppress(KeyError, TypeError, ValueError):
        about = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])
        owner["job"] = str(about["metadata"]["job_submission_id"])
    return {**owner, "since": datetime.now(UTC).isoformat(timespec="seconds")}
