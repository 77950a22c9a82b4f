"""How far a merge is, from what lies at its output. Loads neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lego_ray.errors import MalformedAdapter, ObjectNotFound
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.output.checkpoints.run_folder import (
    ENDING,
    FOLDER,
    Marker,
    Summary,
    UnreadableCheckpoint,
    folder_uri,
    parse_text,
    read_marker,
)
from lego_ray.output.damage import Damaged, damaged_files
from lego_ray.output.manifest import (
    MANIFEST_KEY,
    marker_of,
    parse_manifest,
    read_bytes,
)
from lego_ray.records import Record
from lego_ray.storage.base import ByteRange, ObjectInfo, Store

# Small reads that wait for a store.
THREADS = 16
# One request brings the header of most checkpoints.
FIRST_READ = 64 << 10


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class StatusRecord(Record):
    """How far a merge is.

    Attributes:
        state: `published`, `unfinished`, or `damaged`: published, and a file is missing or has another
            size than it must.
        output: URI of its output.
        merge_id: The plan that is run, or was, hex.
        name: Its name.
        method: Name of the method.
        rank: The rank; as it was asked for until it is published.
        adapters: How many there are.
        sites: How many sites it has.
        sites_done: How many of them are merged.
        sites_measured: How many are measured; None unless ranks are chosen by measuring.
        quarantined: Adapters that turned out bad so far, each with `adapter` and `reason`.
        damaged: Files that are damaged, each with `file` and `problem`.
        tasks_saved: Finished tasks that are kept; this and the rest are None once it is published.
        bytes_read: Bytes read for them.
        inertia: Sum over their sites; None too of a method that does not cluster.
        started_at: When the run began, ISO 8601.
        saved_at: When the newest of its tasks was saved.
        catalog: URI of the catalog it is to be recorded in.
        kept_in: Where the finished tasks are.
    """

    state: str
    output: str
    merge_id: str
    name: str
    method: str
    rank: int | str
    adapters: int
    sites: int
    sites_done: int
    sites_measured: int | None
    quarantined: tuple[Mapping[str, Any], ...]
    damaged: tuple[Mapping[str, str], ...] = ()
    tasks_saved: int | None = None
    bytes_read: int | None = None
    inertia: float | None = None
    started_at: str | None = None
    saved_at: str | None = None
    catalog: str | None = None
    kept_in: str | None = None

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name}: {self.state}, {self.sites_done} of {self.sites} "
            f"sites, {self.output}>"
        )


def progress_at(store: Store, found: Mapping[str, ObjectInfo]) -> StatusRecord | None:
    """Says how far the merge at an output is; None if neither it nor an unfinished run is there.

    Args:
        store: The output.
        found: Its files, by key.

    Raises:
        OutputExists: If the unfinished run is of another release.
        StorageError: If the store cannot be read.
    """
    marker = None
    if MANIFEST_KEY in found:
        manifest = parse_manifest(read_bytes(store), store.uri)
        if marker_of(manifest) in found:
            damaged = damaged_files(manifest, found)
            marker = read_marker(store) if damaged else None
            if marker is None:  # or the same merge is writing the missing files again
                return _published(store, manifest, damaged)
    marker = marker or read_marker(store)
    if marker is None:
        return None
    files = [i for k, i in found.items() if k.startswith(FOLDER) and k.endswith(ENDING)]
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        read = list(threads.map(lambda info: _summary(store, info), files))
    return _unfinished(store, marker, [each for each in read if each is not None])


def _published(store: Store, manifest: dict[str, Any], damaged: Sequence[Damaged]) -> StatusRecord:
    return StatusRecord(
        state="damaged" if damaged else "published",
        damaged=tuple(each.as_json() for each in damaged),
        output=store.uri,
        merge_id=manifest["merge_id"],
        name=manifest["name"],
        method=manifest["recipe"]["method"],
        rank=manifest["recipe"]["rank"],
        adapters=len(manifest["sources"]),
        sites=manifest["sites"],
        sites_done=manifest["sites"],
        sites_measured=None if manifest.get("nearest_error") is None else manifest["sites"],
        quarantined=tuple(
            {"adapter": r["adapter"], "reason": r["reason"]}
            for r in manifest["refused"]
            if r["status"] == "quarantined"
        ),
    )


def _unfinished(store: Store, marker: Marker, tasks: Sequence[Summary]) -> StatusRecord:
    # Plans that were given up, for adapters that turned out bad, are read and not done.
    number = max((task.number for task in tasks), default=1)
    now = [task for task in tasks if task.number == number]
    sites = {site.site: site for task in now for site in task.sites}
    # By the last plan that did: ranks are measured again without adapters that turn out bad.
    last = max((task.number for task in tasks if task.sites_found()), default=number)
    measured = {site for task in tasks if task.number == last for site in task.sites_found()}
    inertias = [i for site in sites.values() if (i := site.inertia) is not None]
    bad = {
        where: f"{kind}: {where}: {problem}"
        for task in tasks
        for kind, where, problem, _ in task.quarantined.values()
    }
    return StatusRecord(
        state="unfinished",
        output=store.uri,
        merge_id=now[0].plan if now else marker.plan,
        name=marker.name,
        method=marker.method,
        rank=marker.rank,
        adapters=marker.adapters - (len(bad) if number > 1 else 0),
        sites=now[0].of_sites if now else marker.sites,
        sites_done=len(sites),
        sites_measured=len(measured) if isinstance(marker.rank, str) else None,
        quarantined=tuple({"adapter": uri, "reason": bad[uri]} for uri in sorted(bad)),
        tasks_saved=len(tasks),
        bytes_read=sum(task.result.bytes_read for task in tasks),
        inertia=sum(inertias) if inertias else None,
        started_at=marker.started_at,
        saved_at=max((task.saved_at for task in tasks), default=None),
        catalog=marker.catalog,
        kept_in=folder_uri(store),
    )


def _summary(store: Store, info: ObjectInfo) -> Summary | None:
    """What a checkpoint says of itself; None if it is gone by now, or cannot be read."""
    try:
        end = min(FIRST_READ, info.size)
        first = bytes(store.read_ranges(info.key, [ByteRange(0, end)])[0]) if end else b""
        size = LENGTH_BYTES + header_length(first[:LENGTH_BYTES], info.size, info.key)
        if size > end:
            first += store.read_ranges(info.key, [ByteRange(end, size)])[0]
        _, metadata = parse_header(first[LENGTH_BYTES:size], info.size, info.key)
        return parse_text(metadata)
    except (ObjectNotFound, MalformedAdapter, UnreadableCheckpoint):
        return None
