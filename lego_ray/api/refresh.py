"""Brings a library up to date."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from os import fspath
from typing import Unpack

from lego_ray.arguments import checked_with
from lego_ray.library.build import read_library
from lego_ray.library.places import places_to_refresh
from lego_ray.library.record import RefreshRecord
from lego_ray.library.refresh import checked_silence, run_refresh
from lego_ray.options import picked
from lego_ray.planning.arguments import Uri, checked_checkpoints, parse_bytes
from lego_ray.planning.options import RunOptions
from lego_ray.planning.scan_limits import checked_limits
from lego_ray.runners.base import Runner
from lego_ray.runners.open import open_runner
from lego_ray.storage.buckets import buckets_in_use
from lego_ray.storage.lease import STALE_AFTER
from lego_ray.storage.uri import parse_uri
from lego_ray.tasks.values import Progress


@checked_with(RunOptions)
def refresh(
    recipe: Uri,
    *,
    output: Uri | None = None,
    catalog: Uri | None = None,
    checkpoints: str | None = None,
    scan_limits: Mapping[str, float] | None = None,
    base: Uri | None = None,
    runner: str | Runner = "auto",
    stale_after: str | timedelta = STALE_AFTER,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> RefreshRecord:
    """Brings a library up to date; made to be called on a schedule.

    Scans the sources into the catalog, and makes those merges of the recipe file whose plan (adapters
    and recipe) is none that was made before, each in a directory of its own,
    `<output>/<name>/<12 digits of the plan>`. Former versions stay as they are. In the catalog the
    current version of a merge is the row of the highest `version` of its name; where the sources went
    back to what they were, the merge of then gets the highest version, and nothing is merged.

    Groups are found again each time, which reads every adapter of an entry with `groups`.

    If nothing is new, no merge is made and no table is committed to, except that `adapters` gets the
    store's new marks of files that were copied or touched since; each of these is read once. The answer
    is kept in `<output>/.lego-ray/unchanged`. As long as listings show that no adapter, merge or table
    was written since, the next refresh gives it again, and reads no adapter and no table. If some
    adapters were, it reads the headers of these alone; those of the others are kept in
    `<output>/.lego-ray/readings`.

    If someone else is at the same library, nothing is done: the answer says who. Whoever was killed at
    it is taken over from after `stale_after`, or at once if this refresh joins the Ray cluster that it
    used and the cluster says that its driver has ended. Its finished tasks are used.

    Args:
        recipe: The recipe file: a path or `s3://bucket/key`.
        output: Where the library is; in place of the file's `output`.
        catalog: Where it is recorded; in place of the file's `catalog`.
        checkpoints: As for `merge`; in place of the file's `checkpoints`.
        scan_limits: As for `merge`; in place of the file's `scan_limits`.
        base: As for `merge`; in place of the file's `base`.
        runner: As for `build`. Nothing is started if nothing is to be merged.
        stale_after: How long another must have given no sign of life to count as dead, measured by the
            store's own clock: a duration, or text such as `5m`; at least a minute.
        progress: Called with each merge's plan, and with each result of it.
        **options: See `RunOptions`.

    Returns:
        What was done; see `RefreshRecord`, which is read like a dictionary too.

    Raises:
        RecipeError: If the file is not as it must be; every fault is named.
        BadInput: If it has no output or no catalog, the output lies in a source, or a merge cannot be
            made as asked; nothing was written.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish; or if this process was silent, as a computer that sleeps,
            until another took over: then nothing of it becomes current.
    """
    started = time.perf_counter()
    run = picked(RunOptions, options)
    library = read_library(parse_uri(recipe), fspath(recipe))
    places = places_to_refresh(library, output, catalog)
    if checkpoints is not None:
        library = replace(library, checkpoints=checked_checkpoints(checkpoints))
    if scan_limits is not None:
        library = replace(library, scan_limits=checked_limits(scan_limits))
    if base is not None:
        library = library.on_base(base)
    budget = parse_bytes(run["memory_budget"])
    silence = checked_silence(stale_after)
    with buckets_in_use(library.buckets):
        return run_refresh(
            library,
            places,
            opening=lambda: open_runner(runner, options),
            memory_budget=budget,
            strict=run["strict"],
            stale_after=silence,
            progress=progress or (lambda plan, result: None),
            started=started,
        )
