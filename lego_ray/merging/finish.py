"""The end of every merge, new version or not: files, model card, manifest, and the catalog's rows.

The files come first, the one that makes the output an adapter last of them; then the rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.msu_files import MsuFiles
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import CatalogError, NoSpaceLeft, NotRecorded, StorageError
from lego_ray.merging.record import ALREADY, PUBLISHED
from lego_ray.merging.stages import Stages
from lego_ray.output.adapter_files import adapter_files
from lego_ray.output.card.figures import SiteFigures
from lego_ray.output.card.model_card import model_card
from lego_ray.output.catalog_rows import adapter_rows, merge_row, msu_rows, site_rows
from lego_ray.output.manifest import MANIFEST_KEY, encode_manifest, manifest_of, versions
from lego_ray.output.readable import check_made, with_warnings
from lego_ray.output.running_sums import STATE_KEY, State, encode_state
from lego_ray.output.write import publish
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.storage.base import Store
from lego_ray.tasks.values import SiteResult


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge that is worked out, and not written yet.

    Attributes:
        plan: Its plan. The adapters are those it is made of, in the order of `hashes`.
        requested: Digest of the plan as it was asked for.
        sites: Its sites.
        hashes: Hex sha256 of what was read of each adapter.
        rows: The adapters to record, and those refused.
        numbered: adapter_id of each adapter by the number that MSUs give for it.
        full_weights: Tensors that are taken over as they are, by key.
        zeros: Warnings of what came out as zero.
        state: Its running sums, if it keeps any.
        more: What else its manifest says; see `manifest_of`.
        drift: Of an update: how far it is from a full merge.
        msus: Its rows of `msus`, if they are written already; None if they are made of its sites.
    """

    plan: Plan
    requested: str
    sites: Sequence[SiteResult]
    hashes: Sequence[str]
    rows: Inventory
    numbered: Sequence[str]
    full_weights: Mapping[str, Any] = field(default_factory=dict)
    zeros: Sequence[str] = ()
    state: State | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    drift: float | None = None
    msus: MsuFiles | None = None


def finish(
    merged: Merged,
    store: Store,
    catalog: Catalog | None,
    *,
    started: float,
    stages: Stages,
    tenure: Tenure | None = None,
) -> tuple[Plan, str]:
    """Writes a merged adapter and then its rows.

    Args:
        merged: What to write.
        store: The output.
        catalog: Where it is recorded, or None.
        started: When the run began, by `time.perf_counter`.
        stages: Where its time went so far.
        tenure: The turn at the library that it is made in, if there are turns.

    Returns:
        The plan with the warnings that writing it gave, and what became of it: `published`, or
        `already published` if another run did so meanwhile.

    Raises:
        UnreadableOutput: If a reader of its layout could not load it; nothing was written.
        OutputExists: If the output holds something else.
        RunFailed: If a later turn has begun; the merge is not recorded.
        NotRecorded: If its rows could not be written, though it is published.
    """
    if catalog and tenure is not None:
        tenure.check_now(catalog)
    with stages.timed("publish"):
        plan, files = _files(merged)
        status = PUBLISHED if publish(store, files, plan.marker) else ALREADY
    if status == PUBLISHED:
        stages.moved("publish", sum(map(len, files.values())))
    if catalog:
        try:
            _record(merged, plan, files, store.uri, catalog, started, stages, tenure)
        except (StorageError, CatalogError) as error:
            raise _not_recorded(error, store.uri) from error
    return plan, status


def _not_recorded(error: StorageError | CatalogError, output: str) -> NotRecorded:
    """The error of a catalog that failed when the merge was published already."""
    problem = f"{error.problem}; the merge is published at {output} and is not recorded here"
    if isinstance(error, NoSpaceLeft):
        first = "Raise the limit" if "ulimit" in error.hint else "Free space"
        return NotRecorded(
            error.where, problem, f"{first}, then run the same command again: that records it."
        )
    is_same = error.hint.startswith("Run ") and "again" in error.hint
    first = "" if is_same else f"{error.hint} "
    return NotRecorded(error.where, problem, f"{first}{NotRecorded.advice}")


def _files(merged: Merged) -> tuple[Plan, dict[str, bytes]]:
    """The files to write, held against their readers, and the plan with what that showed."""
    files = adapter_files(merged.plan, merged.sites, merged.full_weights)
    plan = with_warnings(merged.plan, check_made(merged.plan, files), merged.zeros)
    figures = [
        SiteFigures(s.plan.site, s.plan.n_msus, s.a.shape[0], s.relative_error, s.norm_ratio)
        for s in merged.sites
    ]
    files["README.md"] = model_card(plan, figures, versions())
    if merged.state is not None:
        files[STATE_KEY] = encode_state(merged.state)
    manifest = manifest_of(plan, merged.requested, list(merged.hashes), files, merged.more)
    files[MANIFEST_KEY] = encode_manifest(manifest)
    return plan, files


def _record(
    merged: Merged,
    plan: Plan,
    files: dict[str, bytes],
    output: str,
    catalog: Catalog,
    started: float,
    stages: Stages,
    tenure: Tenure | None,
) -> None:
    """Writes the rows: those of adapters and details before the row that refers to them."""
    now = datetime.now(UTC)
    record_adapters(catalog, adapter_rows(merged.rows, now))
    sites = site_rows(plan.digest, merged.sites)
    msus = merged.msus or msu_rows(plan.digest, merged.sites, merged.numbered)
    row = merge_row(
        plan,
        output=output,
        files=files,
        n_sites=len(sites),
        n_msus=msus.num_rows,
        created_at=now,
        seconds=time.perf_counter() - started,
        stages=stages.rows(),
        drift=merged.drift,
    )
    append_merge(catalog, row, sites, msus, tenure)
