"""One update under way: headers, the next version, its tasks, the files, the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lego_ray import journal
from lego_ray.catalog.opening import has_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import LegoRayError, SourceChanged, VerificationFailed
from lego_ray.merging.finish import Merged, finish
from lego_ray.merging.plan_run import check_strict, closing_results
from lego_ray.merging.record import UpdateRecord, record_of, record_of_published, with_more
from lego_ray.merging.stages import Stages
from lego_ray.merging.updates.changes import (
    check_fits,
    check_new,
    named_sources,
    records_of,
    weights_for,
    with_names_of,
)
from lego_ray.merging.updates.drift import REFIT_ABOVE, drift_of, is_large
from lego_ray.merging.updates.parent import MergedBefore
from lego_ray.merging.updates.version import (
    Coming,
    Version,
    checked_hashes,
    next_version,
)
from lego_ray.merging.updates.version_plan import grouped, plan_of
from lego_ray.output.catalog_rows import (
    catalogued,
)
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.manifest import (
    source_of,
)
from lego_ray.output.nothing import zero_warnings
from lego_ray.output.running_sums import State
from lego_ray.output.write import manifest_at, published_manifest
from lego_ray.planning.inventory import Inventory, require_adapters
from lego_ray.planning.noise_halves import noise_warnings
from lego_ray.planning.plan import Plan
from lego_ray.planning.scan_limits import NO_LIMITS, ScanLimits
from lego_ray.planning.source_changes import Attempt
from lego_ray.planning.trainer_runs import PassedOver
from lego_ray.runners.base import Runner
from lego_ray.sources.confirm import confirm
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.identities import sightings_of
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.tasks.update import UpdateResult
from lego_ray.tasks.values import SiteResult


@dataclass(frozen=True, slots=True)
class Asked:
    """What an update is to do; see `api.update`.

    Attributes:
        add: Sources of adapters to add.
        remove: Names of adapters to remove.
        output: Where the new version goes, normalized.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        checkpoints: As for `scan_sources`.
        limits: As for `scan_sources`.
    """

    add: tuple[str, ...]
    remove: tuple[str, ...]
    output: str
    memory_budget: int
    strict: bool
    checkpoints: str = "last"
    limits: ScanLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class _Made:
    """A version that was worked out."""

    version: Version
    plan: Plan
    state: State
    sites: tuple[SiteResult, ...]
    zeros: tuple[str, ...]


class UpdateRun:
    """One update under way."""

    def __init__(
        self,
        before: MergedBefore,
        asked: Asked,
        catalog: Catalog | None,
        runner: Runner,
        started: float,
        attempt: Attempt,
    ) -> None:
        self._attempt = attempt
        self._before = before
        self._asked = asked
        self._catalog = catalog
        self._runner = runner
        self._started = started
        self._bytes_read = 0
        self._stages = Stages()
        self._passed_over: tuple[PassedOver, ...] = ()
        self._warnings: list[str] = []

    def run(self) -> UpdateRecord:
        """Makes the version and publishes it; see `api.update` for the record and the errors.

        Raises:
            SourceChanged: If a file of an adapter that comes or goes is not the one that was scanned.
        """
        try:
            return self._run().after(self._attempt)
        except SourceChanged:
            self._attempt.bytes_read += self._bytes_read
            raise

    def _run(self) -> UpdateRecord:
        before, asked = self._before, self._asked
        manifest, where = before.manifest, before.store.uri
        state = before.state()
        recipe = before.recipe()
        going = named_sources(manifest["sources"], asked.remove, where)
        with self._stages.timed("scan"):
            inventory = self._scan(recipe.exclude, recipe.full_weights, state)
        layout = manifest["format"]
        inventory = replace(inventory, adapters=with_names_of(inventory.adapters, state, layout))
        check_new(inventory.adapters, manifest["sources"], where)
        check_fits(inventory.adapters, manifest, state, recipe)
        with self._stages.timed("scan"):
            found, read = records_of(going, recipe, self._catalog)
            records = with_names_of(found, state, layout)
        self._bytes_read += read
        self._stages.moved("scan", self._bytes_read)
        store = open_store(asked.output)
        while True:
            weights = weights_for(inventory.adapters, recipe)
            coming = [Coming(*each) for each in zip(inventory.adapters, weights, strict=True)]
            version = next_version(state, recipe, coming, list(zip(going, records, strict=True)))
            groups = grouped(version.site_plans(), state.sites)
            plan = plan_of(version, manifest, (), groups, inventory.refused, asked.memory_budget)
            with journal.failures(plan.digest, self._attempt.goes_on_after):
                done = published_manifest(store, plan.digest, plan.marker)
                if done and (self._catalog is None or has_merge(self._catalog, plan.digest)):
                    return self._published(done, version)
                Checkpoints(store, plan).check()
                self._check_writable()
                with self._stages.timed("solve"):
                    results, bad = self._solve(version, plan)
                if bad:
                    inventory = inventory.quarantine(bad)
                    check_strict(inventory, asked.strict)
                    if not going:
                        require_adapters(inventory, asked.add)
                    continue
                made = self._made(version, plan, results)
                return self._publish(made, [s["uri"] for s in going])

    def _scan(self, exclude: tuple[str, ...], full_weights: str, state: State) -> Inventory:
        asked = self._asked
        if not asked.add:
            return Inventory((), ())
        skip = [asked.output, self._before.store.uri]
        seen = [
            *sightings_of({"sources": state.everyone}),  # those that went may come back
            *sightings_of(self._before.manifest),
            *sightings_of(manifest_at(open_store(asked.output))),
        ]
        scan = scan_sources(
            asked.add,
            exclude=exclude,
            full_weights=full_weights,
            checkpoints=asked.checkpoints,
            skip=skip,
            known=catalogued(self._catalog).and_of(seen),
            again=self._attempt.is_again,
            limits=asked.limits,
        )
        self._bytes_read += scan.bytes_read
        inventory = self._attempt.with_gone(scan.inventory)
        check_strict(inventory, asked.strict)
        require_adapters(inventory, asked.add)
        self._passed_over = inventory.passed_over
        adapters = inventory.adapters
        self._warnings = [*inventory.about(adapters)[1], *noise_warnings(adapters)]
        return inventory

    def _check_writable(self) -> None:
        if self._catalog:
            self._catalog.check_writable()
            probe_create_only(open_store(self._catalog.uri))
        probe_create_only(open_store(self._asked.output))

    def _solve(
        self, version: Version, plan: Plan
    ) -> tuple[list[UpdateResult], dict[str, LegoRayError]]:
        """Results in order; or the adapters to add that turned out bad, by URI."""
        groups = grouped(version.site_plans(), version.before.sites)
        tasks = version.tasks(groups, self._asked.memory_budget)
        results: list[UpdateResult] = []
        confirm(version.sources, weights=False)
        with closing_results(self._runner, tasks) as found:
            results.extend(found)
        confirm(version.sources)
        read = sum(result.bytes_read for result in results)
        self._bytes_read += read
        self._stages.moved("solve", read)
        journal.note("update worked out", plan.digest, tasks=len(tasks))
        bad: dict[str, LegoRayError] = {}
        for result in results:
            for number, error in result.quarantined.items():
                uri = version.sources[number].uri
                if version.changes[number].sign < 0:
                    raise VerificationFailed(
                        uri,
                        f"it cannot be taken out as it is now: {error.problem}",
                        "Put back what was merged, or merge the others again with --refit.",
                    )
                bad[uri] = min(bad.get(uri, error), error, key=str)
        return sorted(results, key=lambda r: r.index), bad

    def _made(self, version: Version, plan: Plan, results: Sequence[UpdateResult]) -> _Made:
        hashes = checked_hashes(version, results)
        before = version.before
        # What a run that was cut short while it published has written is finished, to the byte.
        there = manifest_at(open_store(self._asked.output))
        same = there is not None and there["merge_id"] == plan.digest
        begun = {
            (s["adapter_id"], s.get("tensors_sha256")): s
            for s in (there["sources"] if there and same else ())
        }
        fitted = list(before.fitted)
        entries: dict[str, dict[str, Any]] = {}
        for number, change in enumerate(version.changes):
            record, weight = version.sources[number], version.weights[number]
            if change.sign > 0:
                mine = source_of(record, hashes[number], weight)
                entries[record.uri] = begun.get((record.adapter_id, hashes[number]), mine)
            if change.sign > 0 and change.fit is not None:
                fitted[change.fit] = entries[record.uri]
        running = [site for result in results for site in result.running]
        state = replace(
            before,
            fitted=tuple(fitted),
            present=version.present,
            added=tuple(
                entries[each.record.uri] if isinstance(each, Coming) else each
                for each in version.added
            ),
            sites=tuple(
                replace(site, running=now) for site, now in zip(before.sites, running, strict=True)
            ),
        )
        final = plan_of(
            version,
            self._before.manifest,
            state.sources(),
            plan.tasks,
            plan.refused,
            plan.memory_budget,
        )
        sites = tuple(site for result in results for site in result.sites)
        tensors = {
            number: {t for result in results for t in result.tensor_hashes.get(number, ())}
            for number, change in enumerate(version.changes)
            if change.sign > 0
        }
        zeros = tuple(zero_warnings(sites, version.sources, tensors))
        return _Made(version, final, state, sites, zeros)

    def _publish(self, made: _Made, removed: list[str]) -> UpdateRecord:
        before = self._before
        drift, site_drift = drift_of(made.state, made.sites)
        contents = {s["adapter_id"]: s["tensors_sha256"] for s in made.state.sources()}
        coming = tuple(
            replace(record, content=contents[record.adapter_id])
            for record, change in zip(made.version.sources, made.version.changes, strict=True)
            if change.sign > 0
        )
        merged = Merged(
            plan=made.plan,
            requested=made.plan.digest,
            sites=made.sites,
            hashes=[source["tensors_sha256"] for source in made.state.sources()],
            rows=Inventory(coming, made.plan.refused),
            numbered=[s["adapter_id"] for s in made.state.everyone],
            zeros=made.zeros,
            state=made.state,
            more={
                **before.told(),
                "drift": drift,
                "skipped_sites": made.version.skipped_sites(),
            },
            drift=drift,
        )
        store = open_store(self._asked.output)
        plan, status = finish(
            merged, store, self._catalog, started=self._started, stages=self._stages
        )
        record = record_of(
            plan,
            status=status,
            output=store.uri,
            catalog=self._catalog.uri if self._catalog else None,
            started=self._started,
            bytes_read=self._bytes_read + before.store.bytes_read,
        )
        journal.note(status, plan.digest, output=store.uri, drift=drift)
        return with_more(
            record,
            UpdateRecord,
            **self._told(made.version, removed, drift),
            nearest_error=None,
            warnings=(*self._warnings, *plan.warnings),
            site_drift=tuple(site_drift),
        )

    def _told(self, version: Version, removed: list[str], drift: float | None) -> dict[str, Any]:
        coming = zip(version.sources, version.changes, strict=True)
        return {
            "parent": self._before.manifest["merge_id"],
            "version": self._before.version + 1,
            "added": tuple(record.uri for record, change in coming if change.sign > 0),
            "removed": tuple(removed),
            "passed_over": tuple(each.as_json() for each in self._passed_over),
            "skipped_sites": tuple(version.skipped_sites()),
            "drift": drift,
            "refit_above": REFIT_ABOVE,
            "refit_advised": is_large(drift),
        }

    def _published(self, done: dict[str, Any], version: Version) -> UpdateRecord:
        record = record_of_published(
            done,
            output=self._asked.output,
            catalog=self._catalog.uri if self._catalog else None,
            started=self._started,
            bytes_read=self._bytes_read + self._before.store.bytes_read,
        )
        going = zip(version.sources, version.changes, strict=True)
        removed = [r.uri for r, change in going if change.sign < 0]
        return with_more(record, UpdateRecord, **self._told(version, removed, done["drift"]))
