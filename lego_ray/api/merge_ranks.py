"""Merges adapters at several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from os import fspath
from typing import Unpack

from lego_ray.arguments import checked_with
from lego_ray.library.build import run_build
from lego_ray.library.record import LibraryRecord
from lego_ray.options import picked
from lego_ray.planning.arguments import (
    Uri,
    checkpoints_of,
    limits_of,
    output_place,
    parse_bytes,
    recipes_at_ranks,
    sources_given,
)
from lego_ray.planning.options import MergeOptions, RunOptions
from lego_ray.planning.rank_options import folder_at_rank
from lego_ray.planning.recipe_file import LibraryRecipe, MergeEntry
from lego_ray.runners.base import Runner
from lego_ray.runners.open import open_runner
from lego_ray.tasks.values import Progress


@checked_with(MergeOptions)
def merge_ranks(
    sources: Uri | Sequence[Uri],
    *,
    ranks: Sequence[int],
    output: Uri,
    catalog: Uri | None = None,
    dry_run: bool = False,
    runner: str | Runner = "auto",
    progress: Progress | None = None,
    **options: Unpack[MergeOptions],
) -> LibraryRecord:
    """Merges the adapters under some sources once at each of several ranks, from one read of them.

    Each merge has the bytes that `merge` makes at its rank and under its name. It goes to `rank-K` below
    the output, is called NAME-rank-K, and is recorded in the catalog like any merge. A call that was
    stopped, called again, goes on; merges that are published already are left as they are. Bytes are
    read again only for a module that does not fit a worker for all ranks at once.

    Args:
        sources: As for `merge`.
        ranks: The ranks, each given once.
        output: What the merges go below.
        catalog: As for `merge`.
        dry_run: Only plan; write nothing.
        runner: As for `merge`.
        progress: Called with each merge's plan, and with each result of it.
        **options: As for `merge`, except `rank`, `rank_error` and `rank_budget`.

    Returns:
        The merges, in the order of the ranks; see `LibraryRecord`, which is read like a dictionary too.

    Raises:
        BadInput: If no merge can be made as asked, or one cannot under `strict`; nothing was written.
            Otherwise a merge that cannot, such as at a rank that its method cannot give, is listed in
            `failed`.
        OutputExists: If an output holds something else, or an unfinished run of another plan.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish.
    """
    place = output_place(output)
    entries = tuple(
        MergeEntry(recipe, output=str(place.join(folder_at_rank(rank))))
        for rank, recipe in recipes_at_ranks(place, ranks, options)
    )
    first = entries[0].recipe
    library = LibraryRecipe(
        sources=tuple(sources_given(sources)),
        full_weights=first.full_weights,
        catalog="" if catalog is None else fspath(catalog),
        output=str(place),
        entries=entries,
        checkpoints=checkpoints_of(options),
        scan_limits=limits_of(options),
        base=first.base,
        exclude=first.exclude,
    )
    run = picked(RunOptions, options)
    budget = parse_bytes(run["memory_budget"])
    with open_runner(runner, options) as mine:
        return run_build(
            library,
            runner=mine,
            memory_budget=budget,
            strict=run["strict"],
            progress=progress or (lambda plan, result: None),
            dry_run=dry_run,
        )
