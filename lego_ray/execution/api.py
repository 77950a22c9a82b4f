"""The Python calls: the same verbs as the command line, the same records back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from os import fspath
from typing import Any

from lego_ray.arguments import checked
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.opening import open_catalog
from lego_ray.execution.arguments import Uri, output_place, parse_bytes, places, recipe_of
from lego_ray.execution.measuring import plan_with_errors
from lego_ray.execution.merging import run_merge
from lego_ray.execution.publishing.cataloguing import adapter_rows, catalogued
from lego_ray.execution.rescanning import rescanning
from lego_ray.execution.runner import Runner, running
from lego_ray.execution.scanning import Counted, scan_sources, untold
from lego_ray.execution.solving import Progress, check_strict
from lego_ray.execution.status import status as status
from lego_ray.execution.verifying import run_verify
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.noise_halves import noise_warnings
from lego_ray.planning.plan import Plan, set_aside
from lego_ray.planning.planner import DEFAULT_MEMORY_BUDGET, make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.source_changes import Attempt, warning
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import normalise_uri


@checked
def scan(
    sources: Uri | Sequence[Uri],
    *,
    catalog: Uri | None = None,
    exclude: Sequence[str] = (),
    full_weights: str = "refuse",
    checkpoints: str = "last",
    strict: bool = False,
    progress: Counted = untold,
) -> dict[str, Any]:
    """Indexes adapters from their headers, and records them in a catalog if one is given.

    Scanning again writes nothing where nothing changed.

    Args:
        sources: Directories, `s3://bucket/prefix` or `hf://owner/name[@revision]`.
        catalog: Where the catalog is; made if there is none.
        exclude: Glob patterns of adapters to leave out, by name, path or URI.
        full_weights: `refuse` adapters that carry weights that are not low-rank, or `drop` these.
        checkpoints: As for `merge`.
        strict: Raise if an adapter is refused.
        progress: Called with the number of adapters read, and of those there are to read.

    Returns:
        `adapters` (a list of records), `refused` (a list of `{adapter, reason}`), `passed_over` and
        `notes` (as `merge` returns them), `catalog`, `new` (rows written), `bytes_read`, `seconds`,
        `warnings`.

    Raises:
        StrictRefusal: If strict and an adapter was refused.
        StorageError: If a source cannot be read.
    """
    started = time.perf_counter()
    Recipe(name="scan", rank=1, full_weights=full_weights)
    place = None if catalog is None else normalise_uri(catalog)
    opened = None if place is None else open_catalog(place)
    found = scan_sources(
        places(sources),
        exclude=exclude,
        full_weights=full_weights,
        checkpoints=checkpoints,
        progress=progress,
        known=catalogued(opened),
    )
    inventory = found.inventory
    check_strict(inventory, strict)
    rows = adapter_rows(inventory, datetime.now(UTC))
    written = 0
    if opened is not None and place is not None:
        probe_create_only(open_store(place))
        written = record_adapters(opened, rows)
    keep = ("adapter_id", "uri", "revision", "base_model", "format", "rank_min", "rank_max")
    more = ("n_sites", "n_params", "n_bytes", "dtype", "license", "tags")
    return {
        "adapters": [{k: r[k] for k in (*keep, *more)} for r in rows if r["status"] == "ok"],
        "refused": [{"adapter": r.uri, "reason": r.reason} for r in inventory.refused],
        **set_aside(inventory.passed_over, inventory.adapters),
        "catalog": place,
        "new": written,
        "bytes_read": found.bytes_read,
        "seconds": round(time.perf_counter() - started, 3),
        "warnings": [*inventory.about(inventory.adapters)[1], *noise_warnings(inventory.adapters)],
    }


@checked
def plan(
    sources: Uri | Sequence[Uri],
    *,
    rank: int | str | None = None,
    rank_error: float | None = None,
    rank_budget: int | None = None,
    output: Uri | None = None,
    name: str | None = None,
    preset: str | None = None,
    method: str | None = None,
    seed: int = 0,
    dtype: str = "majority",
    base_model: str = "",
    full_weights: str = "refuse",
    exclude: Sequence[str] = (),
    checkpoints: str = "last",
    compact: bool = False,
    updatable: bool = False,
    weights: Mapping[str, float] | None = None,
    output_scale: float | str | None = None,
    site_scales: Mapping[str, float] | None = None,
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    strict: bool = False,
    errors: bool = False,
    runner: str | Runner = "inline",
    address: str = "local",
    workers: int | None = None,
    gpus: float = 0.0,
    progress: Progress | None = None,
    **options: object,
) -> Plan:
    """Plans a merge: nothing is written. From headers alone, unless errors are asked for.

    Args:
        sources: As for `merge`.
        rank: As for `merge`, and so are the other options of the same name.
        rank_error: As there.
        rank_budget: As there.
        output: Where the merged adapter would go; gives the name, and is no source itself.
        name: Name the merge will have, part of what is planned; by default from the output.
        preset: Preset.
        method: Merge method.
        seed: Seed.
        dtype: Element type.
        base_model: Base model override.
        full_weights: What to do with weights that are not low-rank.
        exclude: Adapters to leave out.
        checkpoints: Whether to take one adapter per training run, or all.
        compact: Whether to write true ranks.
        updatable: Whether running sums are to be kept.
        weights: Factors on the adapters' updates.
        output_scale: Factor on the merged update, or a rule.
        site_scales: Factors besides on sites.
        memory_budget: Bytes a worker may take.
        strict: Fail if an adapter is refused.
        errors: Read the adapters and measure what a rank can give. The plan then has `.errors`, which
            tells for k = 1, 2, 4, ... how far the nearest adapter of rank k is from the sum of the
            updates, and ranks that are open are chosen by it.
        runner: What measures.
        address: Where Ray is.
        workers: Most tasks at once.
        gpus: Share of a GPU each task takes.
        progress: Called as by `merge`, while measuring.
        **options: The method's options.

    Returns:
        The plan; `.digest` names it, `.as_json()` is what `lego-ray plan --json` prints. Where ranks
        are open it is the plan to measure, and `merge_id` is the digest of the one with errors.

    Raises:
        BadInput: If the merge cannot be made as asked.
        StorageError: If a source cannot be read.
    """
    place = None if output is None else output_place(output)
    recipe = recipe_of(
        place,
        name=name,
        rank=rank,
        rank_error=rank_error,
        rank_budget=rank_budget,
        exclude=exclude,
        weights=weights,
        preset=preset,
        method=method,
        options=options,
        seed=seed,
        dtype=dtype,
        base_model=base_model,
        full_weights=full_weights,
        compact=compact,
        updatable=updatable,
        output_scale=output_scale,
        site_scales={} if site_scales is None else site_scales,
    )
    where = places(sources)
    budget = parse_bytes(memory_budget)

    def scanned(attempt: Attempt) -> Inventory:
        found = scan_sources(
            where,
            exclude=recipe.exclude,
            full_weights=full_weights,
            checkpoints=checkpoints,
            skip=() if place is None else (place,),
            again=attempt.is_again,
        )
        inventory = attempt.with_gone(found.inventory)
        check_strict(inventory, strict)
        return inventory

    if not errors:
        return make_plan(recipe, scanned(Attempt()), sources=where, memory_budget=budget)

    def measured(attempt: Attempt) -> Plan:
        made = plan_with_errors(
            recipe,
            scanned(attempt),
            mine,
            sources=where,
            memory_budget=budget,
            strict=strict,
            progress=progress or (lambda plan, result: None),
        )
        about = (warning(error) for error in attempt.changes)
        return replace(made, warnings=(*made.warnings, *about))

    with running(runner, address=address, workers=workers, gpus=gpus) as mine:
        return rescanning(measured, strict=strict)


@checked
def merge(
    sources: Uri | Sequence[Uri],
    *,
    rank: int | str | None = None,
    output: Uri,
    rank_error: float | None = None,
    rank_budget: int | None = None,
    name: str | None = None,
    preset: str | None = None,
    method: str | None = None,
    catalog: Uri | None = None,
    seed: int = 0,
    dtype: str = "majority",
    base_model: str = "",
    full_weights: str = "refuse",
    exclude: Sequence[str] = (),
    checkpoints: str = "last",
    compact: bool = False,
    updatable: bool = False,
    weights: Mapping[str, float] | None = None,
    output_scale: float | str | None = None,
    site_scales: Mapping[str, float] | None = None,
    runner: str | Runner = "ray",
    address: str = "local",
    workers: int | None = None,
    gpus: float = 0.0,
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    strict: bool = False,
    progress: Progress | None = None,
    **options: object,
) -> dict[str, Any]:
    """Merges the adapters under some sources into one, and records it in a catalog.

    The output is a directory in the layout the sources came in (PEFT's for mlx-lm's), complete or not
    there: `adapter_config.json`, or else the weights file, is written last and nothing is overwritten.
    The same sources, recipe and seed give the same bytes with any runner, any number of workers and
    any order of adapters and ranks.

    Each task that is done is kept below `<output>/.lego-ray` until the adapter is published. A run
    that ended early, called again, goes on from there and gives the same bytes. Several runs of the
    same merge may go on at once: one of them publishes.

    Args:
        sources: Directories, `s3://bucket/prefix` or `hf://owner/name[@revision]`, each an adapter or
            a tree of them; or single weights files in one.
        rank: k, the rank of the merged adapter; or `auto`, the smallest k for which the nearest adapter
            of rank k to the sum of the updates is within `rank_error` of it. None with a budget.
        output: Where to write it: a directory or `s3://bucket/prefix`.
        rank_error: With `auto`, above 0 and below 1: the largest relative error
            `sqrt(sum_{i>k} s_i^2 / sum_i s_i^2)`, s the singular values of the sums at all sites; None
            for 0.3. The nearest adapter is what `svd` makes; other methods are farther.
        rank_budget: Instead of a rank: spread as many parameters as this rank has at every site over
            the sites, each rank to where it lowers that error most, one a site at least. Implies
            `compact`.
        name: Its name in the catalog and model card; by default the last part of `output`.
        preset: A name from `methods.presets` that settles method, options and output scale: `paper` is
            LoRA-LEGO as published; `iso` and `core-space` kept most of real tasks, `rank-one` most of
            what tells where each MSU went. What it settles may not be given otherwise beside it.
        method: Merge method; None for the preset's, else `lego`.
        catalog: Where its catalog is; made if there is none. None for no catalog.
        seed: Fixes everything random.
        dtype: `majority` of the sources, `F32`, `BF16` or `F16`.
        base_model: Name of the base model, if the sources disagree on it.
        full_weights: `refuse` adapters that carry weights that are not low-rank, `drop` these, or
            `keep:NAME` to take them over from the adapter of that name.
        exclude: Glob patterns of adapters to leave out, by name, path or URI.
        checkpoints: `last` takes one adapter per training run: its final one, or its last checkpoint
            if there is no final one. `all` takes every checkpoint as an adapter too. An adapter that is
            a source by itself is always taken.
        compact: Write true ranks with `rank_pattern` instead of padding to rank k.
        updatable: Keep running sums beside the adapter, from which `update` makes later versions.
            Takes the lego method; about 8 bytes a parameter of the merged adapter, and 36 an MSU.
        weights: Factor on the update of adapters, by name, glob pattern or URI; 1 for those not meant,
            and one of weight 0 is left out.
        output_scale: Factor on the merged update, after all that the method does; None for the
            preset's, else 1. Or a rule that gives each site its own: `source-norm`, as long as the root
            mean square of its sources' updates; `sum-fit`, as near to their sum as a factor brings it. A
            rule may be multiplied: `sum-fit*0.5`.
        site_scales: Factor besides on the merged update of sites, by name, last parts of it or glob
            pattern: `{"q_proj": 0.5, "layers.0.*": 2}`.
        runner: `ray`, or `inline` for this process; or a runner, which is stopped
            when its work is done.
        address: Where Ray is: `local` starts one, `auto` joins the running cluster, `ray://...`.
        workers: Most tasks at once; None for one a CPU.
        gpus: Share of a GPU each task takes, such as 0.5 or 1, as Ray counts them; 0 for none. A GPU
            gives the same labels but for near ties, and centroids to float32 rounding.
        memory_budget: Most memory one worker may take: bytes, or text such as `4GiB`. A site whose
            pool needs more is spread over several.
        strict: Fail if an adapter is refused, instead of going on without it.
        progress: Called with the plan, and with each task's result; first with those kept from an
            earlier run, for which nothing was read now.
        **options: The method's options, such as `n_init` of `methods.lego.Lego`.

    Returns:
        `merge_id`, `name`, `status` (`published` or `already published`), `output`, `catalog`,
        `adapters` (URIs merged), `refused` (a list of `{adapter, reason}`), `passed_over` (a list of
        `{adapter, why, checkpoints}`, one per training run), `notes` (a list of `{adapter, note}` on
        what was set aside, such as a value head beside an adapter), `sites`, `rank` (the
        largest), `ranks` (by site, if there was a budget), `nearest_error` (relative error of the
        nearest adapter of these ranks, where they were chosen by it), `method`, `seconds`,
        `bytes_read` (by this call, to choose ranks too), `resumed_sites` (taken from an earlier,
        unfinished run), `licenses` (of the sources, each once), `warnings`.

    Raises:
        BadInput: If it cannot be made as asked; nothing was written.
        OutputExists: If the output holds something else, or an unfinished run of another plan.
        SourceChanged: If a file of an adapter changed after its scan, twice or under strict; after the
            first change all is scanned and planned again.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish; nothing was published.
    """
    place = output_place(output)
    recipe = recipe_of(
        place,
        name=name,
        rank=rank,
        rank_error=rank_error,
        rank_budget=rank_budget,
        exclude=exclude,
        weights=weights,
        preset=preset,
        method=method,
        options=options,
        seed=seed,
        dtype=dtype,
        base_model=base_model,
        full_weights=full_weights,
        compact=compact,
        updatable=updatable,
        output_scale=output_scale,
        site_scales={} if site_scales is None else site_scales,
    )
    budget = parse_bytes(memory_budget)
    with running(runner, address=address, workers=workers, gpus=gpus) as mine:
        return run_merge(
            places(sources),
            recipe,
            output=place,
            catalog_uri=None if catalog is None else fspath(catalog),
            runner=mine,
            memory_budget=budget,
            strict=strict,
            trainer_checkpoints=checkpoints,
            progress=progress or (lambda plan, result: None),
        )


@checked
def verify(
    merged: Uri,
    *,
    sources: Uri | Sequence[Uri] = (),
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    progress: Counted = untold,
) -> dict[str, Any]:
    """Checks a merged adapter: its files' hashes, that it loads, and how far it is from its sources.

    Args:
        merged: Where the merged adapter is.
        sources: The adapters it was made from, as for `merge`; without them the errors are not
            computed. Each must be unchanged.
        memory_budget: Most memory to take: bytes, or text such as `4GiB`. Sources of a site that do not
            fit are read block by block, several times if the budget is small.
        progress: Called with the number of sites compared with their sources, and of those there are.

    Returns:
        `merged`, `merge_id`, `ok`, `files`, `rank`, `sites`, `sources`, `warnings`, and `errors`, None
        without sources. With W the merged update and `w_t dW_t` the weighted ones of the sources,
        `errors` has:

        - `relative_error_to_sum`: `||W - S|| / ||S||` in Frobenius norms, `S = sum_t w_t dW_t`;
        - `relative_error_to_mean`: the same for `S / sum_t w_t`, the sum over the sources that have the
          site; None, and `mean_reason` says so, where a weight is negative;
        - `norm_ratio`: `||W|| / ||S||`;
        - `least_squares_scale`: `<W, S> / ||W||^2`, the factor on W that brings it nearest to S;
        - `norm`: `||W||`;
        - `sources`: for each its `adapter` (URI), `adapter_id`, `weight`, number of `sites`, `norm`
          `||dW_t||`, `share_kept` `<W, dW_t> / ||dW_t||^2` and `cosine` `<W, dW_t> / (||W|| ||dW_t||)`;
        - `sites`: for each its `site` and the first four figures, and `share_kept` and `cosine` as lists
          in the order of `sources`, None for a source without the site.

        All are exact to float64 rounding. A figure is None where what it is relative to is zero.

    Raises:
        InvalidOption: If the budget does not hold the merged adapter and one source at a site.
        VerificationFailed: If a file or a source is not what the manifest says.
        SourceChanged: If a file changes twice while it is read.
        ObjectNotFound: If there is no merged adapter there.
    """
    return run_verify(fspath(merged), places(sources), parse_bytes(memory_budget), progress)
