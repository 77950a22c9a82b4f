"""Merges adapters into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from lego_ray.arguments import checked_with
from lego_ray.catalog.opening import open_catalog
from lego_ray.merging.merge import merge_at
from lego_ray.merging.record import MergeRecord
from lego_ray.options import picked
from lego_ray.planning.arguments import (
    Uri,
    checkpoints_of,
    limits_of,
    output_place,
    parse_bytes,
    recipe_of,
    sources_given,
)
from lego_ray.planning.options import MergeOptions, RunOptions
from lego_ray.runners.base import Runner
from lego_ray.runners.open import open_runner
from lego_ray.tasks.values import Progress


@checked_with(MergeOptions)
def merge(
    sources: Uri | Sequence[Uri],
    *,
    output: Uri,
    catalog: Uri | None = None,
    runner: str | Runner = "auto",
    progress: Progress | None = None,
    **options: Unpack[MergeOptions],
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
        output: Where to write it: a directory or `s3://bucket/prefix`.
        catalog: Where its catalog is; created if missing. None for no catalog.
        runner: `ray`; `inline` for this process, with a thread for each core and the memory of one
            worker; or `auto`: Ray if the work is worth its start, or if `address`, `workers`,
            `max_workers`, `wait` or `gpus` is given, else this process. Or a runner, which is
            stopped when its work is done. A GPU gives the same labels except for near ties, and
            centroids to float32 rounding.
        progress: Called with the plan, and with each task's result; first with those kept from an
            earlier run, for which nothing was read now.
        **options: See `MergeOptions`; those of `MethodOptions` go with the methods that have them.

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
    recipe = recipe_of(place, options)
    run = picked(RunOptions, options)
    budget = parse_bytes(run["memory_budget"])
    opened = open_catalog(catalog) if catalog else None
    with open_runner(runner, options) as mine:
        return merge_at(
            sources_given(sources),
            recipe,
            output=place,
            catalog=opened,
            runner=mine,
            memory_budget=budget,
            strict=run["strict"],
            trainer_checkpoints=checkpoints_of(options),
            limits=limits_of(options),
            progress=progress or (lambda plan, result: None),
        )
