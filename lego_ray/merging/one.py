"""The main job: scan, plan, solve, publish, catalogue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from lego_ray import journal
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.opening import has_merge, open_catalog
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import SourceChanged
from lego_ray.merging.plan_run import (
    PlanRun,
    Progress,
    Solved,
    check_strict,
    contents_of,
    note_planned,
    solve_plan,
    tensors_of,
)
from lego_ray.merging.stages import Stages
from lego_ray.output.adapter_files import adapter_files, carried_of
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
    sources_of,
    versions,
)
from lego_ray.output.nothing import zero_warnings
from lego_ray.output.readable import check_made, with_warnings
from lego_ray.output.running_sums import STATE_KEY, encode_state, first_state
from lego_ray.output.write import (
    is_merge_of,
    manifest_at,
    publish,
    published_merge,
)
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import set_aside
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.identities import Sighting, sightings_of
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.base import Store
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import normalise_uri


def run_merge(
    sources: Sequence[str],
    recipe: Recipe,
    *,
    output: str,
    catalog_uri: str | None,
    runner: Runner,
    memory_budget: int,
    strict: bool,
    progress: Progress,
    trainer_checkpoints: str = "last",
    more: Mapping[str, Any] = MappingProxyType({}),
    known: Sequence[Sighting] = (),
) -> dict[str, Any]:
    """Merges the adapters under some sources; see `api.merge` for the promise.

    Args:
        sources: Where the adapters are.
        recipe: What to make of them.
        output: Where the merged adapter goes.
        catalog_uri: Where its catalog is, or None for none.
        runner: What runs the tasks.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        progress: Called with the plan when it is made (result None), and with each result.
        trainer_checkpoints: `checkpoints` of `scan_sources`.
        more: What its manifest says besides; see `manifest_of`.
        known: What the merge it follows says of adapters.
    """
    started = time.perf_counter()
    output = normalise_uri(output)

    def attempted(attempt: Attempt) -> dict[str, Any]:
        return _merge_once(
            attempt,
            sources,
            recipe,
            output=output,
            catalog_uri=catalog_uri,
            runner=runner,
            memory_budget=memory_budget,
            progress=progress,
            more=more,
            trainer_checkpoints=trainer_checkpoints,
            known=known,
            started=started,
        )

    return rescanning(attempted, strict=strict)


def _merge_once(
    attempt: Attempt,
    sources: Sequence[str],
    recipe: Recipe,
    *,
    output: str,
    catalog_uri: str | None,
    runner: Runner,
    memory_budget: int,
    progress: Progress,
    more: Mapping[str, Any],
    trainer_checkpoints: str,
    known: Sequence[Sighting],
    started: float,
) -> dict[str, Any]:
    """Merges what is there now; see `run_merge`.

    Raises:
        SourceChanged: If a file of an adapter is not the one that was scanned.
    """
    store = open_store(output)
    catalog = open_catalog(catalog_uri) if catalog_uri else None
    stages = Stages()
    with stages.timed("scan"):
        seen = [*known, *sightings_of(manifest_at(store))]
        scan = scan_sources(
            sources,
            exclude=recipe.exclude,
            full_weights=recipe.full_weights,
            checkpoints=trainer_checkpoints,
            skip=[output],
            known=catalogued(catalog).and_of(seen),
            again=attempt.is_again,
        )
    stages.moved("scan", scan.bytes_read)
    inventory = attempt.with_gone(scan.inventory)
    check_strict(inventory, attempt.strict)
    if inventory.adapters:
        with stages.timed("start"):
            runner.start()
    with stages.timed("plan"):
        plan = make_plan(recipe, inventory, sources=sources, memory_budget=memory_budget)
    checkpoints = Checkpoints(store, plan, attempt.given_up)
    with journal.failures(plan.digest, attempt.goes_on_after):
        done = published_merge(store, plan)
        if done and (catalog is None or has_merge(catalog, done["merge_id"])):
            checkpoints.clear()  # of a run that was cut short between publishing and this
            journal.note("already published", done["merge_id"], output=output)
            record = record_of_published(done, output, catalog, scan.bytes_read, started)
            return attempt.warn({**record, **set_aside(plan.passed_over, plan.adapters)})
        checkpoints.check()
        if catalog:
            catalog.check_writable()
        probe_create_only(store)
        if catalog:
            probe_create_only(open_store(catalog.uri))
        note_planned(plan)
        with checkpoints.held(catalog.uri if catalog else None):
            run = PlanRun(
                plan,
                inventory,
                checkpoints,
                memory_budget=memory_budget,
                strict=attempt.strict,
                progress=progress,
            )
            try:
                solved = solve_plan(run, runner, stages)
            except SourceChanged as error:
                attempt.bytes_read += scan.bytes_read + run.bytes_read
                checkpoints.give_up(not attempt.goes_on_after(error))
                raise
        runner.stop()
        record = publish_solved(
            solved,
            plan.digest,
            store,
            catalog,
            checkpoints,
            started=started,
            bytes_read=scan.bytes_read + solved.bytes_read,
            stages=stages,
            more=more,
        )
        return attempt.warn(record)


def publish_solved(
    solved: Solved,
    requested: str,
    store: Store,
    catalog: Catalog | None,
    checkpoints: Checkpoints,
    *,
    started: float,
    bytes_read: int,
    stages: Stages,
    more: Mapping[str, Any] = MappingProxyType({}),
    tenure: Tenure | None = None,
) -> dict[str, Any]:
    """Writes a merged adapter and its rows, deletes what was kept on the way, and gives its record.

    Args:
        solved: What a plan gave.
        requested: Digest of the plan as it was asked for.
        store: The output.
        catalog: Where it is recorded, or None.
        checkpoints: What was kept.
        started: When the run began, by `time.perf_counter`.
        bytes_read: Bytes it read.
        stages: Where its time went so far.
        more: What its manifest says besides; see `manifest_of`.
        tenure: The turn at the library that it is made in, if there are turns.

    Raises:
        RunFailed: If a later turn has begun; the merge is not recorded.
    """
    if catalog and tenure is not None:
        tenure.check_now(catalog)
    with stages.timed("publish"):
        contents = contents_of(solved.plan, solved.results)
        adapters = tuple(replace(a, content=contents[a.uri]) for a in solved.plan.adapters)
        inventory = Inventory(adapters, solved.plan.refused)
        solved = replace(solved, plan=replace(solved.plan, adapters=adapters))
        solved, requested = as_begun(solved, requested, manifest_at(store))
        solved, files = _files(solved, requested, more)
        status = "published" if publish(store, files, solved.plan.marker) else "already published"
    if status == "published":
        stages.moved("publish", sum(map(len, files.values())))
    if catalog:
        seconds = time.perf_counter() - started
        _catalogue(catalog, solved, inventory, store.uri, files, seconds, stages, tenure)
    checkpoints.clear()
    record = _record(
        solved,
        output=store.uri,
        catalog=catalog,
        status=status,
        seconds=time.perf_counter() - started,
        bytes_read=bytes_read,
    )
    shown = ("output", "adapters", "sites", "seconds", "bytes_read", "resumed_sites")
    told = {**record, "adapters": len(record["adapters"])}
    journal.note(status, solved.plan.digest, **{name: told[name] for name in shown})
    return record


def as_begun(solved: Solved, requested: str, begun: Mapping[str, Any] | None) -> tuple[Solved, str]:
    """A solved merge under the names and places that its publishing was begun with, if it was.

    A run that was killed while it published has left a manifest. The adapters may have been written
    again since, or copied; what it had written is finished, to the byte.

    Args:
        solved: What a plan gave.
        requested: Digest of the plan as it was asked for.
        begun: The manifest at the output, or None.

    Returns:
        The merge, and the digest to give for the plan that was asked for.
    """
    plan = solved.plan
    if begun is None or not is_merge_of(begun, plan, requested):
        return solved, requested
    sources = begun["sources"]
    ids = [(a.adapter_id, a.content) for a in plan.adapters]
    if [(s["adapter_id"], s.get("tensors_sha256")) for s in sources] != ids:
        return solved, requested
    adapters = tuple(
        replace(a, uri=s["uri"], version=s.get("version", ""), revision=s.get("revision", ""))
        for a, s in zip(plan.adapters, sources, strict=True)
    )
    plan = replace(plan, digest=begun["merge_id"], adapters=adapters)
    return replace(solved, plan=plan), str(begun.get("requested_plan", requested))


def _files(
    solved: Solved, requested: str, more: Mapping[str, Any]
) -> tuple[Solved, dict[str, bytes]]:
    """The files to publish, held against their readers, and the plan with what that showed."""
    full_weights = {k: v for r in solved.results for k, v in r.full_weights.items()}
    files = adapter_files(solved.plan, solved.sites, full_weights)
    plan = with_warnings(
        solved.plan,
        check_made(solved.plan, files),
        zero_warnings(solved.sites, solved.plan.adapters, tensors_of(solved.plan, solved.results)),
    )
    solved = replace(solved, plan=plan)
    figures = [
        SiteFigures(s.plan.site, s.plan.n_msus, s.a.shape[0], s.relative_error, s.norm_ratio)
        for s in solved.sites
    ]
    files["README.md"] = model_card(plan, figures, versions())
    hashes = [adapter.content for adapter in plan.adapters]
    if plan.recipe.updatable:
        sources = sources_of(plan, hashes)
        state = first_state(plan.digest, carried_of(plan), sources, solved.sites)
        files[STATE_KEY] = encode_state(state)
    files[MANIFEST_KEY] = encode_manifest(manifest_of(plan, requested, hashes, files, more))
    return solved, files


def _catalogue(
    catalog: Catalog,
    solved: Solved,
    inventory: Inventory,
    output: str,
    files: dict[str, bytes],
    seconds: float,
    stages: Stages,
    tenure: Tenure | None,
) -> None:
    plan, now = solved.plan, datetime.now(UTC)
    sites = site_rows(plan.digest, solved.sites)
    msus = msu_table(plan.digest, solved.sites, [a.adapter_id for a in plan.adapters])
    record_adapters(catalog, adapter_rows(inventory, now))
    row = merge_row(
        plan,
        output=output,
        files=files,
        n_sites=len(sites),
        n_msus=msus.num_rows,
        created_at=now,
        seconds=seconds,
        stages=stages.rows(),
    )
    append_merge(catalog, row, sites, msus, tenure)


def _record(
    solved: Solved,
    *,
    output: str,
    catalog: Catalog | None,
    status: str,
    seconds: float,
    bytes_read: int,
) -> dict[str, Any]:
    plan = solved.plan
    return {
        "merge_id": plan.digest,
        "name": plan.recipe.name,
        "status": status,
        "output": output,
        "catalog": catalog.uri if catalog else None,
        "adapters": [a.uri for a in plan.adapters],
        "refused": [{"adapter": r.uri, "reason": r.reason} for r in plan.refused],
        **set_aside(plan.passed_over, plan.adapters),
        "sites": plan.n_sites,
        "rank": plan.rank,
        "ranks": dict(plan.recipe.ranks) or None,
        "nearest_error": plan.nearest_error,
        "method": plan.recipe.method,
        "seconds": round(seconds, 3),
        "bytes_read": bytes_read,
        "resumed_sites": solved.resumed_sites,
        "licenses": list(plan.licences),
        "warnings": list(plan.warnings),
    }


def record_of_published(
    manifest: dict[str, Any],
    output: str,
    catalog: Catalog | None,
    bytes_read: int,
    started: float,
) -> dict[str, Any]:
    """The record of a merge that was published before: nothing was done."""
    return {
        "merge_id": manifest["merge_id"],
        "name": manifest["name"],
        "status": "already published",
        "output": output,
        "catalog": catalog.uri if catalog else None,
        "adapters": [s["uri"] for s in manifest["sources"]],
        "refused": [{"adapter": r["adapter"], "reason": r["reason"]} for r in manifest["refused"]],
        "passed_over": [],
        "notes": [
            {"adapter": s["uri"], "note": note}
            for s in manifest["sources"]
            for note in s.get("notes", ())
        ],
        "sites": manifest["sites"],
        "rank": manifest["recipe"]["rank"],
        "ranks": manifest["recipe"].get("ranks") or None,
        "nearest_error": manifest.get("nearest_error"),
        "method": manifest["recipe"]["method"],
        "seconds": round(time.perf_counter() - started, 3),
        "bytes_read": bytes_read,
        "resumed_sites": 0,
        "licenses": manifest.get("licenses", []),
        "warnings": [
            *manifest.get("license_conflicts", []),
            *manifest.get("warnings", manifest.get("limits", [])),
        ],
    }
