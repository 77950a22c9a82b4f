"""Plans a merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lego_ray.arguments import checked
from lego_ray.merging.measured_plan import plan_with_errors
from lego_ray.merging.plan_run import Progress, check_strict
from lego_ray.planning.arguments import Uri, output_place, parse_bytes, places, recipe_of
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import DEFAULT_MEMORY_BUDGET, make_plan
from lego_ray.planning.source_changes import Attempt, warning
from lego_ray.runners.base import Runner
from lego_ray.runners.open import running
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.rescan import rescanning


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
