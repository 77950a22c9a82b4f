"""Whether what a checkpoint holds is of the bytes that lie there now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lego_ray.execution.extract import read_ahead
from lego_ray.execution.resume.checkpoint_format import Checkpoint
from lego_ray.execution.task import SourceSlice

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan


def stale(checkpoint: Checkpoint, plan: Plan) -> tuple[str, int]:
    """Says why a checkpoint of a plan may not be used.

    A plan is named by its adapters' ids, which sample their content. So an adapter whose file was
    written since the checkpoint's tasks read it is read again, and held against the hashes of what they
    read: one that was only touched or copied over keeps its results.

    Args:
        checkpoint: What is kept.
        plan: The plan, of adapters as they were scanned now.

    Returns:
        Why not, or empty; and the bytes that were read to tell.

    Raises:
        SourceChanged: If an adapter that is read is not the one that was scanned.
    """
    unsure = []
    for number, hashes in checkpoint.result.tensor_hashes.items():
        if number >= len(plan.adapters):
            return f"it is of an adapter {number}, and the plan has {len(plan.adapters)}", 0
        adapter = plan.adapters[number]
        if checkpoint.versions.get(number) == adapter.version:
            continue
        names = {name for name, _ in hashes}
        factors = tuple(f for f in adapter.sites if any(s.name in names for s in f.spans()))
        kept = tuple(span for span in adapter.full_weights if span.name in names)
        unsure.append(SourceSlice.of(adapter, number, factors, kept))
    bytes_read = 0
    for source, read in read_ahead(unsure):
        bytes_read += read.bytes_read
        hashes = checkpoint.result.tensor_hashes[source.adapter]
        if any(read.hashes.get(name) != digest for name, digest in hashes):
            return f"{source.uri} was changed since", bytes_read
    return "", bytes_read
