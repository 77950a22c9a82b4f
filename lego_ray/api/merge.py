"""Merges adapters into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import fspath

from lego_ray.arguments import checked
from lego_ray.merging.merge import run_merge
from lego_ray.merging.plan_run import Progress
from lego_ray.merging.record import MergeRecord
from lego_ray.planning.arguments import Uri, output_place, parse_bytes, places, recipe_of
from lego_ray.planning.planner import DEFAULT_MEMORY_BUDGET
from lego_ray.runners.base import Runner
from lego_ray.runners.open import running


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
) -> MergeRecord:
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
        The record of the merge; see `MergeRecord`, which is read like a dictionary too.

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
