"""Refreshes a library: what is new since the last time is scanned, merged and recorded, nothing else.

<output>/<merge name>/<first 12 digits of the plan>/   one directory a version, never changed
<output>/.lego-ray/refresh/                            a lease, while someone is at it

The current version of a merge is its row of the highest `version` in the catalog.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from os import fspath
from typing import TYPE_CHECKING, Any

from lego_ray.arguments import checked
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import make_current
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure, last_tenure
from lego_ray.catalog.upkeep.durations import parse_duration
from lego_ray.errors import InvalidOption, SourceChanged
from lego_ray.execution import journal
from lego_ray.execution.arguments import Uri, output_place, parse_bytes
from lego_ray.execution.building import (
    read_library,
    record_groupings,
)
from lego_ray.execution.entries import Find, outputs_of
from lego_ray.execution.grouping import GroupFinder, group_record
from lego_ray.execution.looking import Found, is_inside, look
from lego_ray.execution.making import make_planned
from lego_ray.execution.merging import record_of_published
from lego_ray.execution.rescanning import rescanning
from lego_ray.execution.resume.run_folder import FOLDER
from lego_ray.execution.runner import Runner, running
from lego_ray.execution.solving import Progress
from lego_ray.execution.stages import Stages
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.grouped import Grouping
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import set_aside
from lego_ray.planning.planner import DEFAULT_MEMORY_BUDGET
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.planning.source_changes import Attempt
from lego_ray.planning.trainer_runs import checked_checkpoints
from lego_ray.storage.lease import BEAT, STALE_AFTER, Lease, leased, told
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import normalise_uri

if TYPE_CHECKING:
    from lego_ray.execution.task import GroupResult
    from lego_ray.planning.plan import Plan

LEASE_FOLDER = f"{FOLDER}refresh/"
# The lease's number is in the catalog under this and the library's place.
TURN = "lego-ray.refresh"
# Three beats may get lost before a holder is taken for dead.
_SHORTEST = 4 * BEAT


@checked
def refresh(
    recipe: Uri,
    *,
    output: Uri | None = None,
    catalog: Uri | None = None,
    checkpoints: str | None = None,
    runner: str | Runner = "ray",
    address: str = "local",
    workers: int | None = None,
    gpus: float = 0.0,
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    strict: bool = False,
    stale_after: str | timedelta = STALE_AFTER,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Brings a library up to date; made to be called on a schedule.

    Scans the sources into the catalog, and makes those merges of the recipe file whose plan (adapters
    and recipe) is none that was made before, each in a directory of its own,
    `<output>/<name>/<12 digits of the plan>`. Former versions stay as they are. In the catalog the
    current version of a merge is the row of the highest `version` of its name; where the sources went
    back to what they were, the merge of then gets the highest version, and nothing is merged.

    Groups are found anew each time, which reads every adapter of an entry with `groups`.

    If nothing is new, no file is written and no table is committed to, except that `adapters` gets the
    store's new marks of files that were copied or touched since; each of these is read once. If someone
    else is at the same library, nothing is done: the answer says who. Whoever was killed at it is taken
    over from after `stale_after`, and its finished tasks are taken on.

    Args:
        recipe: The recipe file: a path or `s3://bucket/key`.
        output: Where the library is; in place of the file's `output`.
        catalog: Where it is recorded; in place of the file's `catalog`.
        checkpoints: As for `merge`; in place of the file's `checkpoints`.
        runner: As for `build`, as are the others. Nothing is started if nothing is to be merged.
        address: Likewise.
        workers: Likewise.
        gpus: Likewise.
        memory_budget: Likewise.
        strict: Likewise.
        stale_after: How long another must have given no sign of life to count as dead, measured by the
            store's own clock: a duration, or text such as `5m`; at least a minute.
        progress: Called with each merge's plan, and with each result of it.

    Returns:
        `status` (`refreshed`, `unchanged` or `busy`), `holder` (who is at it, if busy: `host`, `pid`,
        `job`, `since`), `output`, `catalog`, `adapters` (how many there are; None if busy), `new` (rows
        of adapters written), `refused` (a list of `{adapter, reason}`), `passed_over` and `notes` (as
        `build` returns them), `merges` (what `build` returns
        of each, and its `version`), `groups` (likewise), `seconds`, `bytes_read`.

    Raises:
        RecipeError: If the file is not as it must be; every fault is named.
        BadInput: If it has no output or no catalog, the output lies in a source, or a merge cannot be
            made as asked; nothing was written.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish; or if this process was silent, as a computer that sleeps,
            until another took over: then nothing of it becomes current.
    """
    started = time.perf_counter()
    library = _checked(read_library(fspath(recipe)), output, catalog)
    if checkpoints is not None:
        library = replace(library, checkpoints=checked_checkpoints(checkpoints))
    budget = parse_bytes(memory_budget)
    opened = open_catalog(library.catalog)
    turn, owner = f"{TURN}:{library.output}", _owner()
    silence = _long_enough(stale_after)

    def lease() -> Lease:
        """A lease for one try: each takes it again, under another number."""
        return Lease(
            open_store(library.output),
            LEASE_FOLDER,
            owner,
            stale_after=silence,
            above=lambda: last_tenure(opened, turn),
        )

    if holder := lease().holder():
        return _busy(library, opened, holder, started)
    watch = progress or (lambda plan, result: None)
    with running(runner, address=address, workers=workers, gpus=gpus) as mine:

        def attempted(attempt: Attempt) -> dict[str, Any]:
            return _refresh_once(
                attempt, library, opened, lease(), turn, owner, mine, budget, watch, started
            )

        return rescanning(attempted, strict=strict)


def _refresh_once(
    attempt: Attempt,
    library: LibraryRecipe,
    opened: Catalog,
    lease: Lease,
    turn: str,
    owner: Mapping[str, str],
    runner: Runner,
    memory_budget: int,
    progress: Progress,
    started: float,
) -> dict[str, Any]:
    """Brings a library up to date with what is there now; see `refresh`.

    Raises:
        SourceChanged: If a file of an adapter is not the one that was scanned.
    """
    finder = GroupFinder(runner, memory_budget, attempt.strict, progress)
    find = _once(finder.find)
    looked = 0
    try:
        found = look(library, opened, memory_budget, attempt, find)
        looked = found.bytes_read
        if found.is_current:
            lease.sweep()
            found = replace(found, bytes_read=looked + finder.bytes_read + attempt.bytes_read)
            if found.has_new_marks:  # or each refresh would read those files whole again
                record_adapters(opened, found.rows)
            return _record(
                "unchanged", library, opened, found, _of_done(found, opened), 0, started, attempt
            )
        with leased(lease) as holder:
            if holder is not None:
                return _busy(library, opened, holder, started)
            opened.check_writable()
            probe_create_only(open_store(opened.uri))
            # Before the look: whoever is taken over from must not bring what it found earlier.
            tenure = Tenure(turn, lease.number, owner)
            tenure.claim(opened, ("merges", "groups") if found.groupings else ("merges",))
            # Once more: another may have finished since, and be ahead of what was found.
            found = look(library, opened, memory_budget, attempt, find)
            looked = found.bytes_read
            if len(found.done) < len(found.planned):
                runner.start()
            tenure.check_now(opened)
            new = record_adapters(opened, found.rows)

            def watched(plan: Plan, result: GroupResult | None) -> None:
                lease.check()
                progress(plan, result)

            records, bytes_read = make_planned(
                found.planned,
                opened,
                runner,
                attempt=attempt,
                memory_budget=memory_budget,
                progress=watched,
                started=started,
                stages=Stages(),
                tenure=tenure,
            )
            tenure.check_now(opened)
            record_groupings(opened, found.groupings, records, tenure)
            for merge in records.values():
                merge["version"] = make_current(opened, merge["merge_id"], tenure)
    except SourceChanged:
        attempt.bytes_read += looked + finder.bytes_read
        raise
    read = looked + finder.bytes_read + bytes_read + attempt.bytes_read
    found = replace(found, bytes_read=read)
    return _record("refreshed", library, opened, found, records, new, started, attempt)


def _once(find: Find) -> Find:
    """The same groups for the same adapters, without measuring them again."""
    known: dict[object, Grouping] = {}

    def found(recipe: Recipe, inventory: Inventory, how: GroupOptions) -> Grouping:
        adapters = tuple(
            (a.uri, a.adapter_id, a.version, a.config_version) for a in inventory.adapters
        )
        key = (recipe.name, adapters, inventory.refused)
        if key not in known:
            known[key] = find(recipe, inventory, how)
        return known[key]

    return found


def _checked(library: LibraryRecipe, output: Uri | None, catalog: Uri | None) -> LibraryRecipe:
    """The library with its places as they are to be, normalised."""
    where = fspath(output) if output is not None else library.output
    recorded = fspath(catalog) if catalog is not None else library.catalog
    for option, value in (("--output", where), ("--catalog", recorded)):
        if not value:
            key = option.lstrip("-")
            raise InvalidOption(
                option,
                "a library that is refreshed needs one",
                f"Give {option}, or `{key}:` in the recipe file.",
            )
    library = replace(library, output=output_place(where), catalog=normalise_uri(recorded))
    for place in outputs_of(library, library.output):
        for source in library.sources:
            if is_inside(normalise_uri(place), normalise_uri(source)):
                raise InvalidOption(
                    "--output",
                    f"{place} lies in the source {source}, so each refresh would take what the one "
                    "before it made for adapters of the zoo",
                    "Choose an output beside the sources.",
                )
    return library


def _long_enough(stale_after: str | timedelta) -> timedelta:
    duration = parse_duration("--stale-after", stale_after)
    if duration < _SHORTEST:
        raise InvalidOption(
            "--stale-after",
            f"it is shorter than {_SHORTEST.total_seconds():.0f} s, so one that is at work may be "
            "taken for dead",
            "Give 1m or more.",
        )
    return duration


def _of_done(found: Found, catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Records of merges that are all current, by name."""
    started = time.perf_counter()
    return {
        name: {
            **record_of_published(found.done[name], each.output, catalog, 0, started),
            "version": found.versions[name],
        }
        for each in found.planned
        for name in [each.recipe.name]
    }


def _record(
    status: str,
    library: LibraryRecipe,
    catalog: Catalog,
    found: Found,
    records: Mapping[str, dict[str, Any]],
    new: int,
    started: float,
    attempt: Attempt,
) -> dict[str, Any]:
    return {
        "status": status,
        "holder": None,
        "output": library.output,
        "catalog": catalog.uri,
        "adapters": len(found.inventory.adapters),
        "new": new,
        "refused": [{"adapter": r.uri, "reason": r.reason} for r in found.inventory.refused],
        **set_aside(found.inventory.passed_over, found.inventory.adapters),
        "merges": [attempt.warn_of_merge(records[each.recipe.name]) for each in found.planned],
        "groups": [group_record(each, records) for each in found.groupings],
        "seconds": round(time.perf_counter() - started, 3),
        "bytes_read": found.bytes_read,
    }


def _busy(
    library: LibraryRecipe, catalog: Catalog, holder: dict[str, str], started: float
) -> dict[str, Any]:
    journal.note("busy", "", output=library.output, holder=told(holder))
    return {
        "status": "busy",
        "holder": holder,
        "output": library.output,
        "catalog": catalog.uri,
        "adapters": None,
        "new": 0,
        "refused": [],
        "passed_over": [],
        "notes": [],
        "merges": [],
        "groups": [],
        "seconds": round(time.perf_counter() - started, 3),
        "bytes_read": 0,
    }


def _owner() -> dict[str, str]:
    """Who this process is, for people: its clock is compared with no other."""
    owner = {"host": socket.gethostname(), "pid": str(os.getpid())}
    # What Ray tells the entry point of a job about it.
    with contextlib.suppress(KeyError, TypeError, ValueError):
        about = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])
        owner["job"] = str(about["metadata"]["job_submission_id"])
    return {**owner, "since": datetime.now(UTC).isoformat(timespec="seconds")}
