"""The next version of a merge: adapters added and removed, only these read; or everything again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from os import fspath
from typing import Unpack

from lego_ray.arguments import checked_with
from lego_ray.catalog.opening import catalog_at
from lego_ray.catalog.tables import Catalog
from lego_ray.merging.record import UpdateRecord, record_of_published, with_more
from lego_ray.merging.updates.changes import (
    named_sources,
)
from lego_ray.merging.updates.drift import REFIT_ABOVE
from lego_ray.merging.updates.parent import MergedBefore, find_merged
from lego_ray.merging.updates.refit import refit_merge
from lego_ray.merging.updates.update import Asked, update_merge
from lego_ray.options import picked
from lego_ray.planning.arguments import (
    Uri,
    checked_checkpoints,
    output_place,
    parse_bytes,
    place_or_none,
    sources_given,
    writable,
)
from lego_ray.planning.options import RunOptions
from lego_ray.planning.scan_limits import checked_limits
from lego_ray.runners.base import Runner
from lego_ray.runners.open import open_runner
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.uri import parse_uri
from lego_ray.tasks.values import Progress


@checked_with(RunOptions)
def update(
    merge: Uri,
    *,
    add: Uri | Sequence[Uri] = (),
    remove: str | Sequence[str] = (),
    refit: bool = False,
    checkpoints: str = "last",
    scan_limits: Mapping[str, float] | None = None,
    base: Uri | None = None,
    output: Uri | None = None,
    catalog: Uri | None = None,
    runner: str | Runner = "auto",
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> UpdateRecord:
    """Makes the next version of a merge, with adapters added or removed, reading only these.

    The merge must have been made `updatable`. New MSUs go to the nearest centroid of the last full
    merge, the fit; centroids, reweighting and the factor pair follow from the running sums. So the
    weights are a function of the fit and of the adapters that are in: an adapter added and removed
    again, or removed and added, gives back the earlier bytes, and the order of updates is free.
    Clusters left empty are dropped, and the rank grows no more than the fit's. Sites that the fit never
    had are left out and reported.

    Nothing is overwritten: the version is a directory of its own, with its parent in the manifest and
    in the catalog. The same update again is left as it is.

    Args:
        merge: The merge: where it is, or its name or merge_id in the catalog.
        add: Adapters to add, as `merge` takes sources. None may be in the merge already.
        remove: Adapters to remove, by name, URI or first digits of the adapter_id. Each must still be
            there, as it was merged.
        refit: Merge all of them again with the same recipe instead, as `merge` would; the result is
            updatable where the recipe can be. Adapters are taken as they are now.
        checkpoints: As for `merge`; of the adapters to add.
        scan_limits: As for `merge`; of the adapters to add.
        base: As for `merge`; in place of what the merge was made with.
        output: Where the new version goes; by default beside the merge: `merged-v2` for `merged`.
        catalog: Where it is recorded. None for no catalog.
        runner: As for `merge`.
        progress: Of a refit, as for `merge`.
        **options: See `RunOptions`.

    Returns:
        What `merge` returns, with `parent` (its merge_id), `version`, `added` and `removed` (URIs),
        `skipped_sites` (sites of added adapters that the merge has not), `drift` (over all sites; see
        `drift.drift_of`; None for unknown), `site_drift` (a list of `{site, msus, inertia, expected,
        drift}`) and `refit_advised`. If there is nothing to do, `status` is `nothing to do`, and
        nothing was written.

    Raises:
        UpdateImpossible: If it takes a refit.
        BadInput: If it cannot be made as asked; nothing was written.
        VerificationFailed: If an adapter to remove is not the one that was merged, or the running sums
            are not those that were published.
        OutputExists: If the output holds something else.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish; nothing was published.
    """
    started = time.perf_counter()
    run = picked(RunOptions, options)
    place = place_or_none(catalog)
    opened = None if place is None else catalog_at(place)
    before = find_merged(fspath(merge), opened)
    if base is not None:
        before = before.on_base(str(parse_uri(base)))
    asked = Asked(
        add=tuple(sources_given(add)),
        remove=(remove,) if isinstance(remove, str) else tuple(remove),
        output=writable(before.next_place()) if output is None else output_place(output),
        memory_budget=parse_bytes(run["memory_budget"]),
        strict=run["strict"],
        checkpoints=checked_checkpoints(checkpoints),
        limits=checked_limits(scan_limits),
    )
    if not (asked.add or asked.remove or refit):
        return _nothing_to_do(before, opened, started)
    with open_runner(runner, options) as mine:
        if refit:
            going = named_sources(before.manifest["sources"], asked.remove, before.store.uri)
            return refit_merge(
                before,
                add=asked.add,
                going=going,
                output=asked.output,
                catalog=opened,
                runner=mine,
                memory_budget=asked.memory_budget,
                strict=run["strict"],
                checkpoints=asked.checkpoints,
                limits=asked.limits,
                progress=progress or (lambda plan, result: None),
            )
        return rescanning(
            lambda attempt: update_merge(
                attempt, before, asked, catalog=opened, runner=mine, started=started
            ),
            strict=run["strict"],
        )


def _nothing_to_do(before: MergedBefore, catalog: Catalog | None, started: float) -> UpdateRecord:
    record = record_of_published(
        before.manifest,
        output=before.store.uri,
        catalog=catalog.uri if catalog else None,
        started=started,
        bytes_read=before.store.bytes_read,
    )
    return with_more(
        record,
        UpdateRecord,
        status="nothing to do",
        parent=before.manifest.get("parent", {}).get("merge_id"),
        version=before.version,
        drift=before.manifest.get("drift"),
        refit_above=REFIT_ABOVE,
    )
