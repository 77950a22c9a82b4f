"""How far the merges of a library are, from what lies below its output. Loads neither torch nor Ray."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lego_ray.output.checkpoints.run_folder import MARKER, REFRESH_FOLDER
from lego_ray.output.manifest import MANIFEST_KEY
from lego_ray.output.progress import THREADS, StatusRecord, progress_at
from lego_ray.records import TableRecord, names_of
from lego_ray.storage.base import ObjectInfo, Store
from lego_ray.storage.lease import Lease

# A refresh gives each version of a merge a folder, named after the digits that its plan begins with.
_VERSION = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LibraryStatus(TableRecord):
    """How far the merges below a folder are.

    Attributes:
        state: `published`, `damaged` if a file of at least one merge is, or `unfinished` if at least one
            merge is.
        output: URI of the folder.
        holder: The refresh that holds the library's lease: `host`, `pid`, `job`, `since` and
            `last_sign_at`; None if there is none. One that was killed is named until another takes over.
        merges: How far each is, by folder: the newest published version of a merge, and each version
            that is not finished.
        former: How many published versions are older than those.
    """

    rows_of = "merges"
    columns = names_of(StatusRecord)

    state: str
    output: str
    holder: Mapping[str, str] | None
    merges: tuple[StatusRecord, ...]
    former: int

    def __repr__(self) -> str:
        done = sum(merge.state == "published" for merge in self.merges)
        merges = f"{done} of {len(self.merges)} merges"
        return f"<{type(self).__name__} {self.state}: {merges}, {self.output}>"


def library_progress(store: Store, found: Mapping[str, ObjectInfo]) -> LibraryStatus | None:
    """Says how far the merges below a folder are; None if there are none.

    Args:
        store: The folder.
        found: The files below it, by key.

    Raises:
        OutputExists: If an unfinished run is of another release.
        StorageError: If the store cannot be read.
    """
    folders = _folders(found)
    if not folders:
        return None

    def read(folder: str) -> StatusRecord | None:
        return progress_at(store.place.join(folder).open(), folders[folder])

    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        progress = dict(zip(folders, threads.map(read, folders), strict=True))
    newest: dict[str, str] = {}
    for folder in sorted(folders, key=lambda each: _written(folders[each])):
        record = progress[folder]
        if record is not None and record.state != "unfinished":
            newest[_merge_of(folder)] = folder
    merges = {
        folder: record
        for folder, record in progress.items()
        if record is not None
        and (record.state == "unfinished" or newest[_merge_of(folder)] == folder)
    }
    states = {record.state for record in merges.values()}
    worst = [state for state in ("unfinished", "damaged") if state in states]
    return LibraryStatus(
        state=worst[0] if worst else "published",
        output=store.uri,
        holder=Lease(store, REFRESH_FOLDER, {}).last_holder(),
        merges=tuple(merges.values()),
        former=sum(record is not None for record in progress.values()) - len(merges),
    )


def _folders(found: Mapping[str, ObjectInfo]) -> dict[str, dict[str, ObjectInfo]]:
    """The files of each folder with a merge or an unfinished run, by their keys below that folder."""
    roots = {
        key[: -len(ending) - 1]
        for key in found
        for ending in (MANIFEST_KEY, MARKER)
        if key.endswith(f"/{ending}")
    }
    files: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
    for key, info in found.items():
        parts = key.split("/")
        for end in range(1, len(parts)):
            if (folder := "/".join(parts[:end])) in roots:
                below = key[len(folder) + 1 :]
                files[folder][below] = replace(info, key=below)
    return {folder: files[folder] for folder in sorted(files)}


def _merge_of(folder: str) -> str:
    """The folder of all versions of a merge, which is its own where it has no versions."""
    above, _, last = folder.rpartition("/")
    return above if above and _VERSION.fullmatch(last) else folder


def _written(files: Mapping[str, ObjectInfo]) -> float:
    """When the newest file was written, in seconds; 0 where the store does not say."""
    times = [info.modified_at for info in files.values() if info.modified_at is not None]
    return max(times).timestamp() if times else 0.0
