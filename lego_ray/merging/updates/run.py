"""One update under way: headers, the next version, its tasks, the files, the catalog."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lego_ray import journal
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.opening import has_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import LegoRayError, SourceChanged, VerificationFailed
from lego_ray.merging.one import record_of_published
from lego_ray.merging.plan_run import check_strict, closing_results
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
from lego_ray.output.adapter_files import adapter_files
from lego_ray.output.card.figures import SiteFigures
from lego_ray.output.card.model_card import model_card
from lego_ray.output.catalog_rows import (
    adapter_rows,
    catalogued,
    merge_row,
    msu_table,
    site_rows,
)
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.manifest import (
    MANIFEST_KEY,
    encode_manifest,
    manifest_of,
    source_of,
    versions,
)
from lego_ray.output.nothing import zero_warnings
from lego_ray.output.readable import check_made, with_warnings
from lego_ray.output.running_sums import STATE_KEY, State, encode_state
from lego_ray.output.write import manifest_at, publish, published_manifest
from lego_ray.planning.inventory import Inventory, require_adapters
from lego_ray.planning.noise_halves import noise_warnings
from lego_ray.planning.plan import Plan, set_aside
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
    """What an update is to do; see `updating.update`.

    Attributes:
        add: Sources of adapters to add.
        remove: Names of adapters to remove.
        output: Where the new version goes, normalised.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        checkpoints: As for `scan_sources`.
    """

    add: tuple[str, ...]
    remove: tuple[str, ...]
    output: str
    memory_budget: int
    strict: bool
    checkpoints: str = "last"


@dataclass(frozen=True, slots=True)
class _Made:
    """A version that was worked out."""

    version: Version
    plan: Plan
    state: State
    sites: tuple[SiteResult, ...]


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

    def run(self) -> dict[str, Any]:
        """Makes the version and publishes it; see `updating.update` for the record and the errors.

        Raises:
            SourceChanged: If a file of an adapter that comes or goes is not the one that was scanned.
        """
        try:
            return self._attempt.warn(self._run())
        except SourceChanged:
            self._attempt.bytes_read += self._bytes_read
            raise

    def _run(self) -> dict[str, Any]:
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
                        "Put back what was merged, or merge the others anew with --refit.",
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
            plan.groups,
            plan.refused,
            plan.memory_budget,
        )
        sites = tuple(site for result in results for site in result.sites)
        tensors = {
            number: {t for result in results for t in result.tensor_hashes.get(number, ())}
            for number, change in enumerate(version.changes)
            if change.sign > 0
        }
        final = with_warnings(final, zero_warnings(sites, version.sources, tensors))
        return _Made(version, final, state, sites)

    def _publish(self, made: _Made, removed: list[str]) -> dict[str, Any]:
        plan, before, asked = made.plan, self._before, self._asked
        drift, site_drift = drift_of(made.state, made.sites)
        more = {
            **before.told(),
            "drift": drift,
            "skipped_sites": made.version.skipped_sites(),
        }
        with self._stages.timed("publish"):
            files = adapter_files(plan, made.sites, {})
            plan = with_warnings(plan, check_made(plan, files))
            figures = [
                SiteFigures(
                    s.plan.site, s.plan.n_msus, s.a.shape[0], s.relative_error, s.norm_ratio
                )
                for s in made.sites
            ]
            files["README.md"] = model_card(plan, figures, versions())
            files[STATE_KEY] = encode_state(made.state)
            hashes = [source["tensors_sha256"] for source in made.state.sources()]
            files[MANIFEST_KEY] = encode_manifest(
                manifest_of(plan, plan.digest, hashes, files, more)
            )
            store = open_store(asked.output)
            status = "published" if publish(store, files, plan.marker) else "already published"
        if status == "published":
            self._stages.moved("publish", sum(map(len, files.values())))
        if self._catalog:
            self._record(self._catalog, made, files, drift)
        record = {
            "merge_id": plan.digest,
            "name": plan.recipe.name,
            "status": status,
            "output": store.uri,
            "catalog": self._catalog.uri if self._catalog else None,
            "adapters": [a.uri for a in plan.adapters],
            "refused": [{"adapter": r.uri, "reason": r.reason} for r in plan.refused],
            "sites": plan.n_sites,
            "rank": plan.rank,
            "ranks": dict(plan.recipe.ranks) or None,
            "nearest_error": None,
            "method": plan.recipe.method,
            "seconds": round(time.perf_counter() - self._started, 3),
            "bytes_read": self._bytes_read + before.store.bytes_read,
            "resumed_sites": 0,
            "licenses": list(plan.licences),
            "warnings": [*self._warnings, *plan.warnings],
            **set_aside((), plan.adapters),
            **self._told(made.version, removed, drift),
            "site_drift": site_drift,
        }
        journal.note(status, plan.digest, output=store.uri, drift=drift)
        return record

    def _told(self, version: Version, removed: list[str], drift: float | None) -> dict[str, Any]:
        coming = zip(version.sources, version.changes, strict=True)
        return {
            "parent": self._before.manifest["merge_id"],
            "version": self._before.version + 1,
            "added": [record.uri for record, change in coming if change.sign > 0],
            "removed": removed,
            "passed_over": [each.as_json() for each in self._passed_over],
            "skipped_sites": version.skipped_sites(),
            "drift": drift,
            "refit_above": REFIT_ABOVE,
            "refit_advised": is_large(drift),
        }

    def _published(self, done: dict[str, Any], version: Version) -> dict[str, Any]:
        record = record_of_published(
            done,
            self._asked.output,
            self._catalog,
            self._bytes_read + self._before.store.bytes_read,
            self._started,
        )
        going = zip(version.sources, version.changes, strict=True)
        removed = [r.uri for r, change in going if change.sign < 0]
        return {**record, **self._told(version, removed, done["drift"]), "site_drift": []}

    def _record(
        self, catalog: Catalog, made: _Made, files: dict[str, bytes], drift: float | None
    ) -> None:
        plan, now = made.plan, datetime.now(UTC)
        contents = {s["adapter_id"]: s["tensors_sha256"] for s in made.state.sources()}
        coming = [
            replace(record, content=contents[record.adapter_id])
            for record, change in zip(made.version.sources, made.version.changes, strict=True)
            if change.sign > 0
        ]
        record_adapters(catalog, adapter_rows(Inventory(tuple(coming), plan.refused), now))
        sites = site_rows(plan.digest, made.sites)
        msus = msu_table(plan.digest, made.sites, [s["adapter_id"] for s in made.state.everyone])
        row = merge_row(
            plan,
            output=self._asked.output,
            files=files,
            n_sites=len(sites),
            n_msus=msus.num_rows,
            created_at=now,
            seconds=time.perf_counter() - self._started,
            stages=self._stages.rows(),
            drift=drift,
        )
        append_merge(catalog, row, sites, msus)
