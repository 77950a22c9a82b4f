"""The main job: scan, plan, solve, publish, catalogue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.opening import has_merge, open_catalog
from lego_ray.catalog.tables import Catalog
from lego_ray.execution import journal
from lego_ray.execution.extract import content_hash
from lego_ray.execution.publishing.assemble import adapter_files, carried_of
from lego_ray.execution.publishing.cataloguing import adapter_rows, merge_row, msu_table, site_rows
from lego_ray.execution.publishing.manifest import (
    MANIFEST_KEY,
    encode_manifest,
    manifest_of,
    sources_of,
    versions,
)
from lego_ray.execution.publishing.nothing import zero_warnings
from lego_ray.execution.publishing.publish import publish, published_manifest
from lego_ray.execution.publishing.readable import check_made, with_warnings
from lego_ray.execution.resume.checkpoints import Checkpoints
from lego_ray.execution.runner import Runner
from lego_ray.execution.running_sums import STATE_KEY, encode_state, first_state
from lego_ray.execution.scanning import scan_sources
from lego_ray.execution.solving import (
    PlanRun,
    Progress,
    Solved,
    check_strict,
    note_planned,
    solve_plan,
)
from lego_ray.execution.stages import Stages
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.report.figures import SiteFigures
from lego_ray.report.model_card import model_card
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
    more: Mapping[str, Any] = MappingProxyType({}),
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
        more: What its manifest says besides; see `manifest_of`.
    """
    started = time.perf_counter()
    output = normalise_uri(output)
    store = open_store(output)
    stages = Stages()
    with stages.timed("scan"):
        scan = scan_sources(
            sources, exclude=recipe.exclude, full_weights=recipe.full_weights, skip=[output]
        )
    stages.moved("scan", scan.bytes_read)
    check_strict(scan.inventory, strict)
    if scan.inventory.adapters:
        with stages.timed("start"):
            runner.start()
    with stages.timed("plan"):
        plan = make_plan(recipe, scan.inventory, sources=sources, memory_budget=memory_budget)
    catalog = open_catalog(catalog_uri) if catalog_uri else None
    checkpoints = Checkpoints(store, plan)
    with journal.failures(plan.digest):
        done = published_manifest(store, plan.digest, plan.marker)
        if done and (catalog is None or has_merge(catalog, done["merge_id"])):
            checkpoints.clear()  # of a run that was cut short between publishing and this
            journal.note("already published", done["merge_id"], output=output)
            return record_of_published(done, output, catalog, scan.bytes_read, started)
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
                scan.inventory,
                checkpoints,
                memory_budget=memory_budget,
                strict=strict,
                progress=progress,
            )
            solved = solve_plan(run, runner, stages)
        runner.stop()
        return publish_solved(
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
    """
    with stages.timed("publish"):
        solved, files = _files(solved, requested, more)
        status = "published" if publish(store, files, solved.plan.marker) else "already published"
    if status == "published":
        stages.moved("publish", sum(map(len, files.values())))
    if catalog:
        _catalogue(catalog, solved, store.uri, files, time.perf_counter() - started, stages)
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


def _files(
    solved: Solved, requested: str, more: Mapping[str, Any]
) -> tuple[Solved, dict[str, bytes]]:
    """The files to publish, held against their readers, and the plan with what that showed."""
    full_weights = {k: v for r in solved.results for k, v in r.full_weights.items()}
    files = adapter_files(solved.plan, solved.sites, full_weights)
    # Sets: results of runs that cut their tasks differently may share tensors.
    tensors = {
        number: {t for r in solved.results for t in r.tensor_hashes.get(number, ())}
        for number in range(len(solved.plan.adapters))
    }
    plan = with_warnings(
        solved.plan,
        check_made(solved.plan, files),
        zero_warnings(solved.sites, solved.plan.adapters, tensors),
    )
    solved = replace(solved, plan=plan)
    figures = [
        SiteFigures(s.plan.site, s.plan.n_msus, s.a.shape[0], s.relative_error, s.norm_ratio)
        for s in solved.sites
    ]
    files["README.md"] = model_card(plan, figures, versions())
    hashes = [content_hash(list(each)) for each in tensors.values()]
    if plan.recipe.updatable:
        sources = sources_of(plan, hashes)
        state = first_state(plan.digest, carried_of(plan), sources, solved.sites)
        files[STATE_KEY] = encode_state(state)
    files[MANIFEST_KEY] = encode_manifest(manifest_of(plan, requested, hashes, files, more))
    return solved, files


def _catalogue(
    catalog: Catalog,
    solved: Solved,
    output: str,
    files: dict[str, bytes],
    seconds: float,
    stages: Stages,
) -> None:
    plan, now = solved.plan, datetime.now(UTC)
    sites = site_rows(plan.digest, solved.sites)
    msus = msu_table(plan.digest, solved.sites, [a.adapter_id for a in plan.adapters])
    record_adapters(catalog, adapter_rows(Inventory(plan.adapters, plan.refused), now))
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
    append_merge(catalog, row, sites, msus)


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
        "sites": manifest["sites"],
        "rank": manifest["recipe"]["rank"],
        "ranks": manifest["recipe"].get("ranks") or None,
        "nearest_error": manifest.get("nearest_error"),
        "method": manifest["recipe"]["method"],
        "seconds": round(time.perf_counter() - started, 3),
        "bytes_read": bytes_read,
        "resumed_sites": 0,
        "licenses": manifest.get("licenses", []),
        "warnings": [*manifest.get("license_conflicts", []), *manifest.get("limits", [])],
    }
