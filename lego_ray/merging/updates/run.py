"""An update on the road: the next version, its tasks, and what is written of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from lego_ray import journal
from lego_ray.errors import LegoRayError, VerificationFailed
from lego_ray.formats.record import AdapterRecord
from lego_ray.merging.bad_adapters import bad_adapters, without_bad
from lego_ray.merging.finish import Merged
from lego_ray.merging.record import MergeRecord, UpdateRecord, with_more
from lego_ray.merging.stages import Stages
from lego_ray.merging.updates.changes import weights_for
from lego_ray.merging.updates.drift import REFIT_ABOVE, drift_of, is_large
from lego_ray.merging.updates.parent import MergedBefore
from lego_ray.merging.updates.results import checked_hashes, next_state, tensors_to_come
from lego_ray.merging.updates.version import Coming, next_version
from lego_ray.merging.updates.version_plan import grouped, plan_of
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.nothing import zero_warnings
from lego_ray.output.running_sums import State
from lego_ray.output.write import manifest_at
from lego_ray.planning.inventory import Inventory, require_adapters
from lego_ray.planning.noise_halves import noise_warnings
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe
from lego_ray.runners.base import Runner
from lego_ray.sources.confirm import confirm
from lego_ray.storage.base import Store
from lego_ray.tasks.update import UpdateResult, UpdateTask


@dataclass(frozen=True, slots=True)
class Leaving:
    """Adapters that an update removes.

    Attributes:
        sources: As the manifest of the merge lists them.
        records: Their headers, in the same order.
    """

    sources: tuple[Mapping[str, Any], ...]
    records: tuple[AdapterRecord, ...]


class UpdateRun:
    """The next version of a merge; see `merging.base.Run`.

    Its results are not kept: an update reads little. If an adapter that comes turns out bad, the version
    without it is next.
    """

    stage = "solve"
    resumed_sites = 0

    def __init__(
        self,
        before: MergedBefore,
        state: State,
        recipe: Recipe,
        inventory: Inventory,
        leaving: Leaving,
        store: Store,
        stages: Stages,
        *,
        sources: Sequence[str],
        memory_budget: int,
        strict: bool,
    ) -> None:
        """Plans the version; reads nothing.

        Args:
            before: The merge.
            state: Its running sums.
            recipe: The recipe of the version.
            inventory: The adapters to add.
            leaving: Those to remove.
            store: The output.
            stages: Where the run's time went so far.
            sources: The user's words for where the adapters to add are.
            memory_budget: Most bytes one worker may take.
            strict: Whether an adapter that turns out bad fails the run.
        """
        self.name = recipe.name
        self.store = store
        self.stages = stages
        self.bytes_read = 0
        self._before = before
        self._state = state
        self._recipe = recipe
        self._inventory = inventory
        self._leaving = leaving
        self._sources = sources
        self._memory_budget = memory_budget
        self._strict = strict
        self._passed_over = inventory.passed_over
        adapters = inventory.adapters
        self._warnings = (*inventory.about(adapters)[1], *noise_warnings(adapters))
        self._site_drift: tuple[Mapping[str, Any], ...] = ()
        self._more: Mapping[str, Any] = {}
        self.asked = self.plan = self._next()
        self.checkpoints = Checkpoints(store, self.asked)

    def _next(self) -> Plan:
        """Plans the version with the adapters that are left."""
        weights = weights_for(self._inventory.adapters, self._recipe)
        coming = [Coming(*each) for each in zip(self._inventory.adapters, weights, strict=True)]
        leaving = zip(self._leaving.sources, self._leaving.records, strict=True)
        version = next_version(self._state, self._recipe, coming, list(leaving))
        tasks = grouped(version.site_plans(), self._state.sites)
        self._version = version
        self._tasks = version.tasks(tasks, self._memory_budget)
        return plan_of(
            version,
            self._before.manifest,
            version.sources_asked(),
            tasks,
            self._inventory.refused,
            self._memory_budget,
        )

    def held(self, catalog: str | None) -> AbstractContextManager[None]:
        """Marks nothing."""
        return nullcontext()

    def begin(self) -> None:
        """Begins the version.

        Raises:
            SourceChanged: If a configuration is not the one that was scanned.
        """
        self._results: list[UpdateResult] = []
        confirm(self._version.sources, weights=False)

    def tasks(self) -> Iterator[UpdateTask]:
        """All of them."""
        return iter(self._tasks)

    def take(self, result: UpdateResult, runner: Runner) -> None:
        """Takes the result of one of the tasks."""
        self._results.append(result)
        self.bytes_read += result.bytes_read

    def bad(self) -> Mapping[str, LegoRayError]:
        """Adapters to add that turned out bad.

        Raises:
            SourceChanged: If a file of an adapter is not the one that was scanned.
            VerificationFailed: If it is one to remove.
        """
        version = self._version
        confirm(version.sources)
        journal.note("update worked out", self.plan.digest, tasks=len(self._tasks))
        for result in self._results:
            for number, error in result.quarantined.items():
                if version.changes[number].sign < 0:
                    raise VerificationFailed(
                        version.sources[number].uri,
                        f"it cannot be taken out as it is now: {error.problem}",
                        "Put back what was merged, or merge the others again with --refit.",
                    )
        return bad_adapters(version.sources, self._results)

    def is_last(self) -> bool:
        """Always: an update has one pass."""
        return True

    def plan_again(self, bad: Mapping[str, LegoRayError]) -> None:
        """Plans the version without bad adapters.

        Raises:
            NoAdaptersFound: If nothing is left to do.
            StrictRefusal: If strict.
        """
        self._inventory = without_bad(self.plan, self._inventory, bad, self._strict)
        if not self._leaving.sources:
            require_adapters(self._inventory, self._sources)
        self.plan = self._next()

    def merged(self) -> Merged:
        """The version.

        Raises:
            VerificationFailed: If an adapter that the merge knows is not what it was.
        """
        version = self._version
        results = sorted(self._results, key=lambda result: result.index)
        hashes = checked_hashes(version, results)
        there = manifest_at(self.store)
        begun = there["sources"] if there and there["merge_id"] == self.plan.digest else ()
        state, coming = next_state(version, hashes, results, begun)
        plan = plan_of(
            version,
            self._before.manifest,
            state.sources(),
            self.plan.tasks,
            self.plan.refused,
            self.plan.memory_budget,
        )
        sites = tuple(site for result in results for site in result.sites)
        drift, site_drift = drift_of(state, sites)
        self._site_drift = tuple(site_drift)
        self._more = {
            **self._before.told(),
            "drift": drift,
            "skipped_sites": version.skipped_sites(),
        }
        return Merged(
            plan=plan,
            requested=self.asked.digest,
            sites=sites,
            hashes=[source["tensors_sha256"] for source in state.sources()],
            rows=Inventory(coming, plan.refused),
            numbered=[s["adapter_id"] for s in state.everyone],
            zeros=tuple(zero_warnings(sites, version.sources, tensors_to_come(version, results))),
            state=state,
            more=self._more,
            drift=drift,
        )

    def _counts(self, coming: Sequence[AdapterRecord]) -> Mapping[str, int] | None:
        """How many adapters to add were found, and what became of them; None if none were asked for."""
        if not self._sources:
            return None
        bad = len(self._inventory.adapters) - len(coming)
        return self._inventory.counts.with_bad(bad).as_json()

    def full_record(self, record: MergeRecord, published: Mapping[str, Any] | None) -> UpdateRecord:
        """The record with what is new in the version."""
        changes = zip(self._version.sources, self._version.changes, strict=True)
        coming = [adapter for adapter, change in changes if change.sign > 0]
        told = self._more
        if published:  # without adapters that had turned out bad
            told = published
            there = {source["adapter_id"] for source in published["sources"]}
            coming = [adapter for adapter in coming if adapter.adapter_id in there]
        drift = told["drift"]
        return with_more(
            record,
            UpdateRecord,
            parent=self._before.manifest["merge_id"],
            version=self._before.version + 1,
            added=tuple(adapter.uri for adapter in coming),
            removed=tuple(source["uri"] for source in self._leaving.sources),
            passed_over=tuple(each.as_json() for each in self._passed_over),
            counts=self._counts(coming),
            skipped_sites=tuple(told["skipped_sites"]),
            drift=drift,
            refit_above=REFIT_ABOVE,
            refit_advised=is_large(drift),
            site_drift=self._site_drift,
            warnings=record.warnings if published else (*self._warnings, *record.warnings),
        )
