"""What the tasks of an update gave: adapters are the ones that were merged, and the sums afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lego_ray.errors import VerificationFailed
from lego_ray.formats.record import AdapterRecord
from lego_ray.merging.losses import with_losses
from lego_ray.merging.updates.version import Coming, Version
from lego_ray.output.manifest import source_of
from lego_ray.output.running_sums import State
from lego_ray.sources.contents import content_hash
from lego_ray.tasks.update import UpdateResult


def checked_hashes(version: Version, results: Sequence[UpdateResult]) -> list[str]:
    """Hex sha256 over the merged tensors of each adapter that changes.

    Raises:
        VerificationFailed: If one that the merge knows is not what it was.
    """
    found: list[set[tuple[str, str]]] = [set() for _ in version.sources]
    for result in results:
        for number, tensors in result.tensor_hashes.items():
            found[number] |= set(tensors)
    hashes = [content_hash(list(tensors)) for tensors in found]
    for record, change, now in zip(version.sources, version.changes, hashes, strict=True):
        before = version.before
        if change.fit is not None:
            was = before.fitted[change.fit]["tensors_sha256"]
        elif change.before is not None:
            was = before.added[change.before]["tensors_sha256"]
        else:
            continue
        if was != now:
            raise VerificationFailed(
                record.uri,
                f"the sha256 over its tensors is {now}, at the time of the merge it was {was}",
                "It was changed since; put back what was merged, or merge again with --refit.",
            )
    return hashes


def next_state(
    version: Version,
    hashes: Sequence[str],
    results: Sequence[UpdateResult],
    begun: Sequence[Mapping[str, Any]],
) -> tuple[State, tuple[AdapterRecord, ...]]:
    """The running sums of a version, and the adapters that come with what was read of them.

    Args:
        version: The version.
        hashes: From `checked_hashes`.
        results: All of its results, in order.
        begun: Sources in the manifest that a run wrote which was cut short while it published: what it
            has written is finished, to the byte.
    """
    before = version.before
    known = {(s["adapter_id"], s.get("tensors_sha256")): s for s in begun}
    fitted = list(before.fitted)
    entries: dict[str, Mapping[str, Any]] = {}
    coming: list[AdapterRecord] = []
    records = with_losses(version.sources, (loss for r in results for loss in r.losses))
    each_change = zip(records, version.weights, version.changes, hashes, strict=True)
    for record, weight, change, tensors in each_change:
        if change.sign < 0:
            continue
        mine = source_of(record, tensors, weight)
        entries[record.uri] = known.get((record.adapter_id, tensors), mine)
        coming.append(replace(record, content=tensors))
        if change.fit is not None:
            fitted[change.fit] = entries[record.uri]
    running = [site for result in results for site in result.running]
    state = replace(
        before,
        fitted=tuple(fitted),
        present=version.present,
        added=tuple(
            entries[each.record.uri] if isinstance(each, Coming) else each for each in version.added
        ),
        sites=tuple(
            replace(site, running=now) for site, now in zip(before.sites, running, strict=True)
        ),
    )
    return state, tuple(coming)


def tensors_to_come(
    version: Version, results: Sequence[UpdateResult]
) -> dict[int, set[tuple[str, str]]]:
    """Name and hex sha256 of the tensors that were read of each adapter that comes, by its number."""
    return {
        number: {t for result in results for t in result.tensor_hashes.get(number, ())}
        for number, change in enumerate(version.changes)
        if change.sign > 0
    }
