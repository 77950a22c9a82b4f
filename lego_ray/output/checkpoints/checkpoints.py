"""What a run keeps beside its output while it is under way, so that no task is done twice.

Sites are the unit: a run that is started again takes the sites that are done, however that run's work
was cut into tasks. Everything is deleted once the adapter is published.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from logging import WARNING
from typing import TYPE_CHECKING

from lego_ray import journal
from lego_ray.errors import AlreadyExists, ObjectNotFound, OutputExists, StorageError
from lego_ray.formats.differences import differences_of
from lego_ray.methods.presets import DEFAULT_PRESET
from lego_ray.output.checkpoints.format import (
    Checkpoint,
    decode_checkpoint,
)
from lego_ray.output.checkpoints.keeping import Keeping, names_of
from lego_ray.output.checkpoints.run_folder import (
    CHECKPOINT_VERSION,
    FOLDER,
    LARGEST_MARKER,
    MARKER,
    Marker,
    UnreadableCheckpoint,
    check_folder,
    folder_uri,
    read_marker,
)
from lego_ray.output.checkpoints.source_check import SourceCheck
from lego_ray.storage.base import Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.links import lies_inside
from lego_ray.tasks.passes import first_pass
from lego_ray.tasks.values import TaskResult

if TYPE_CHECKING:
    from lego_ray.catalog.msu_files import MsuTarget
    from lego_ray.planning.plan import Plan

# Small reads and deletes that wait for a store.
THREADS = 16


@dataclass(frozen=True, slots=True)
class Kept:
    """What earlier runs of a plan have done.

    Attributes:
        results: Their results, each site in one of them only.
        done: Names of the sites that need not be done again.
        full_weights: Whether the weights passed through unmerged, and the sums of differences, are among
            them.
        bytes_read: Bytes of adapters read to see that they are still what the results are of.
    """

    results: tuple[TaskResult, ...]
    done: frozenset[str]
    full_weights: bool
    bytes_read: int = 0


class Checkpoints:
    """A run's checkpoints. Any number of runs of one plan may share an output."""

    def __init__(self, store: Store, plan: Plan, given_up: set[str] | None = None) -> None:
        """Looks at nothing yet.

        Args:
            store: The output.
            plan: The plan as it was asked for.
            given_up: Digests of plans that this run has made the output by before, and does not any
                more because their sources changed: what is kept of them is not in the way.
        """
        self._store = store
        self._plan = plan
        self._given_up = set[str]() if given_up is None else given_up
        self._empty = True  # as far as this run has seen

    def check(self) -> bool:
        """Says whether an unfinished run of the same plan is there.

        Raises:
            OutputExists: If there is one of another plan, or its folder is a link to elsewhere.
        """
        check_folder(self._store)
        marker = read_marker(self._store)
        if marker and not _is_of(marker, self._plan):
            if marker.plan in self._given_up:
                self.clear()
                return False
            if not {marker.plan, marker.work}.isdisjoint({*self._plan.earlier, self._plan.former}):
                # Its finished modules have the bytes of an earlier arithmetic of the method.
                journal.note("unfinished run of an earlier release begins again", marker.plan)
                self.clear()
                return False
            former = _former_default(marker, self._plan)
            differs = (
                f"no flag meant the preset {former} when that was begun, and means {DEFAULT_PRESET} now"
                if former
                else "the options or the adapters differ"
            )
            finish = f"Finish that run with the preset {former}" if former else "Finish that run"
            raise OutputExists(
                self._store.uri,
                f"an unfinished run of another plan, {marker.plan[:12]}, is there "
                f"({marker.name}, {marker.method} at rank {marker.rank}, started "
                f"{marker.started_at}), and this one is {self._plan.digest[:12]}: {differs}",
                f"{finish}, choose another --output, or delete {folder_uri(self._store)}.",
            )
        return marker is not None

    @contextlib.contextmanager
    def held(self, catalog: str | None) -> Iterator[None]:
        """Marks the output as being made by this plan, for a block that saves what it does.

        If the block fails before it saved anything, the output is let go of.

        Args:
            catalog: Where the merge will be recorded, for whoever looks at the marker.

        Raises:
            OutputExists: If another plan was faster.
        """
        try:
            self._claim(catalog)
            yield
        except BaseException:
            if self._empty:
                self._release()
            raise

    def give_up(self, for_good: bool) -> None:
        """Says that the plan's sources changed, so that what is kept may be of other bytes.

        Args:
            for_good: Whether the run ends: then it is deleted, since the same command is another plan
                next time, which it would stand in the way of.
        """
        self._given_up.add(self._plan.digest)
        if for_good:
            with contextlib.suppress(StorageError, OutputExists):
                marker = read_marker(self._store)
                if marker and _is_of(marker, self._plan):
                    self.clear()

    def _claim(self, catalog: str | None) -> None:
        plan = self._plan
        marker = {
            "checkpoint_version": CHECKPOINT_VERSION,
            "plan": plan.digest,
            "work": plan.work,
            "name": plan.recipe.name,
            "method": plan.recipe.method,
            "rank": plan.recipe.rank_asked,
            "adapters": len(plan.adapters),
            "sites": plan.n_sites,
            "tasks": len(plan.tasks),
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "catalog": catalog,
        }
        for _ in range(2):  # another run of this plan may end in between, and take its marker along
            try:
                self._store.create(MARKER, (json.dumps(marker, indent=1) + "\n").encode())
                return
            except AlreadyExists:
                if self.check():
                    return
        raise OutputExists(
            self._store.uri,
            f"its {MARKER} is not a regular file",
            f"Choose another --output, or delete {folder_uri(self._store)}.",
        )

    def load(self, plan: Plan) -> Kept:
        """Reads what is done of a plan: the one asked for, or one made of it without bad adapters.

        A file that cannot be read, or was made of other bytes than an adapter has now, is deleted, and
        its sites are done again.

        Raises:
            SourceChanged: If an adapter that is read for that is not the one that was scanned.
        """
        sites = {site.site: site for task in plan.tasks for site in task.sites}
        keys = [
            (digest, info.key)
            for digest in names_of(plan)
            for info in self._store.list(f"{FOLDER}{digest}/")
        ]
        sources = SourceCheck(plan)
        work = first_pass(plan.recipe)

        def read(at: tuple[str, str]) -> Checkpoint | None:
            digest, key = at
            try:
                found = decode_checkpoint(self._store.read(key), digest, sites, work.finding)
                sources.check(found, named_after_marks=digest == plan.former)
                return found
            except ObjectNotFound:  # another run of this plan published, and tidied up
                return None
            except UnreadableCheckpoint as error:
                self._drop("checkpoint unreadable", plan, key, error)
                return None

        with ThreadPoolExecutor(max_workers=THREADS) as threads:
            found = list(threads.map(read, keys))
        taken = [each for each in found if each is not None]
        self._empty = self._empty and not taken
        return replace(_each_site_once(taken, plan), bytes_read=sources.bytes_read)

    def _drop(self, event: str, plan: Plan, key: str, why: object) -> None:
        """Deletes a checkpoint that is of no use, and says so."""
        where = f"{self._store.uri}/{key}"
        journal.note(event, plan.digest, WARNING, file=where, why=why)
        if lies_inside(self._store, key):
            self._store.delete(key)

    def save(self, plan: Plan, number: int, covers: Collection[str], result: TaskResult) -> None:
        """Keeps a task's result.

        Args:
            plan: The plan it is of.
            number: Which plan of the run that is, from 1.
            covers: Names of the sites it was to solve.
            result: What it returned.
        """
        sources = {at: (adapter.uri, adapter.mark) for at, adapter in enumerate(plan.adapters)}
        Keeping.of(plan, number, self._store).save(self._store, covers, result, sources)
        self._empty = False

    def keeper(self, plan: Plan, number: int, msus: MsuTarget | None = None) -> Keeping | None:
        """What lets workers keep the results of a plan's tasks; None if the output is not marked.

        Args:
            plan: The plan.
            number: As for `save`.
            msus: Where they write the lineage of large tasks; None if they hand it back.

        Raises:
            StorageError: If the store could not be reached or refused access.
        """
        try:
            marker = read_at_most(self._store, MARKER, LARGEST_MARKER)
        except ObjectNotFound:  # another run of this plan published, and tidied up
            return None
        return Keeping.of(plan, number, self._store, marker, msus)

    def was_kept(self) -> None:
        """Takes note that a worker kept a result."""
        self._empty = False

    def clear(self) -> None:
        """Deletes everything that was kept, as far as the store lets it; nothing links lead to."""
        with contextlib.suppress(StorageError):
            found = [info.key for info in self._store.list(FOLDER)]
            keys = [key for key in found if lies_inside(self._store, key)]
            with ThreadPoolExecutor(max_workers=THREADS) as threads:
                list(threads.map(self._store.delete, (key for key in keys if key != MARKER)))
            # Last, so that what is left of a plan is never left to another.
            if MARKER in keys:
                self._store.delete(MARKER)

    def _release(self) -> None:
        with contextlib.suppress(StorageError, OutputExists):
            marker = read_marker(self._store)
            mine = marker is not None and _is_of(marker, self._plan)
            if mine and [info.key for info in self._store.list(FOLDER)] == [MARKER]:
                self._store.delete(MARKER)


def _is_of(marker: Marker, plan: Plan) -> bool:
    """Whether an output is being made by this plan, or by one with the same work."""
    named = {marker.plan, marker.work}
    return not named.isdisjoint(names_of(plan))


def _former_default(marker: Marker, plan: Plan) -> str:
    """The preset that no flag meant when a run was begun, if the plan differs from it by that alone."""
    # Loads torch, as the plan's recipe has done.
    from lego_ray.planning.kept_default import by_former_defaults
    from lego_ray.planning.planner import digests_by

    named = {marker.plan, marker.work}
    for name, recipe in by_former_defaults(plan.recipe):
        if not named.isdisjoint(digests_by(plan, recipe)):
            return name
    return ""


def _each_site_once(found: Collection[Checkpoint], plan: Plan) -> Kept:
    """The results of files that may overlap, where runs that cut their tasks differently met."""
    wanted = {span.name for adapter in plan.adapters for span in adapter.full_weights}
    wanted |= differences_of(plan.adapters).keys()
    if not first_pass(plan.recipe).is_merge:  # which does not read them
        wanted = set()
    whole = {name for each in found for name in each.result.full_weights} >= wanted
    done: set[str] = set()
    again: set[str] = set()
    if not whole and plan.n_sites == len({site for each in found for site in each.covers}):
        # They travel with a run's first task, so there has to be one.
        again = {site.site for site in plan.tasks[0].sites}
    results = []
    for each in found:
        taken = done | again
        sites = tuple(s for s in each.result.sites if s.plan.site not in taken)
        found_here = tuple(f for f in each.result.found if f.site not in taken)
        done |= set(each.covers) - again
        results.append(replace(each.result, sites=sites, found=found_here, n_found=len(found_here)))
    return Kept(tuple(results), frozenset(done), whole)
