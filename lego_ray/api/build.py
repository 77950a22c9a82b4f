"""Builds a library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import fspath
from typing import Unpack

from lego_ray.arguments import checked_with
from lego_ray.errors import InvalidOption
from lego_ray.library.build import read_library, run_build
from lego_ray.library.record import LibraryRecord
from lego_ray.options import picked
from lego_ray.planning.arguments import Uri, checked_checkpoints, parse_bytes
from lego_ray.planning.group_options import FLAG, group_count
from lego_ray.planning.options import RunOptions
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.planning.scan_limits import checked_limits
from lego_ray.runners.base import Runner
from lego_ray.runners.open import open_runner
from lego_ray.storage.buckets import buckets_in_use
from lego_ray.storage.uri import parse_uri
from lego_ray.tasks.values import Progress


@checked_with(RunOptions)
def build(
    recipe: Uri,
    *,
    output: Uri | None = None,
    catalog: Uri | None = None,
    groups: int | str | None = None,
    checkpoints: str | None = None,
    scan_limits: Mapping[str, float] | None = None,
    base: Uri | None = None,
    dry_run: bool = False,
    runner: str | Runner = "auto",
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> LibraryRecord:
    """Builds a library: every merge of a recipe file, each adapter's bytes read once for all.

    Each merge is the one that `merge` makes of the same adapters, to the same bytes. Finished tasks
    are kept beside its output until it is published, nothing is overwritten, and a build that was
    stopped, called again, goes on. Merges that are published already are left as they are.

    Bytes are read again for a site that does not fit a worker for all merges at once, and to choose
    ranks. An entry with `groups` is one merge a group, `name-1`, `name-2`, ..., of adapters whose
    updates are alike; adapters that stay alone are left out of them. To find the groups each of its
    adapters is read once more, also when the build goes on or all is published already.

    Args:
        recipe: The recipe file: a path or `s3://bucket/key`.
        output: Where the merges go, each below its name; in place of the file's `output`.
        catalog: Where they are recorded; in place of the file's `catalog`.
        groups: How many groups, or `auto`; in place of what the file's entries with `groups` say.
        checkpoints: As for `merge`; in place of the file's `checkpoints`.
        scan_limits: As for `merge`; in place of the file's `scan_limits`.
        base: As for `merge`; in place of the file's `base`.
        dry_run: Only plan, which reads what groups are found by; write nothing.
        runner: As for `merge`.
        progress: Called with each merge's plan, and with each result of it.
        **options: See `RunOptions`.

    Returns:
        What was built; see `LibraryRecord`, which is read like a dictionary too.

    Raises:
        RecipeError: If the file is not as it must be; every fault is named.
        BadInput: If a merge cannot be made as asked; nothing was written.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish.
    """
    run = picked(RunOptions, options)
    library = read_library(parse_uri(recipe), fspath(recipe))
    if output is not None:
        library = replace(library, output=fspath(output))
    if catalog is not None:
        library = replace(library, catalog=fspath(catalog))
    if groups is not None:
        library = _with_groups(library, group_count(groups), fspath(recipe))
    if checkpoints is not None:
        library = replace(library, checkpoints=checked_checkpoints(checkpoints))
    if scan_limits is not None:
        library = replace(library, scan_limits=checked_limits(scan_limits))
    if base is not None:
        library = library.on_base(base)
    budget = parse_bytes(run["memory_budget"])
    with buckets_in_use(library.buckets), open_runner(runner, options) as mine:
        return run_build(
            library,
            runner=mine,
            memory_budget=budget,
            strict=run["strict"],
            progress=progress or (lambda plan, result: None),
            dry_run=dry_run,
        )


def _with_groups(library: LibraryRecipe, count: int | None, where: str) -> LibraryRecipe:
    """The library with this number of groups in every entry that has groups."""
    if not any(entry.groups for entry in library.entries):
        raise InvalidOption(
            FLAG,
            f"no merge in {where} has `groups`",
            "Write `groups: auto` in the merges whose adapters are to be grouped.",
        )
    entries = tuple(
        replace(entry, groups=replace(entry.groups, count=count)) if entry.groups else entry
        for entry in library.entries
    )
    return replace(library, entries=entries)
