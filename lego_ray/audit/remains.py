"""What a process that was killed leaves apart from its work: probes, leases, files it was writing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from lego_ray.errors import ObjectNotFound
from lego_ray.output.checkpoints.run_folder import FOLDER
from lego_ray.storage.base import ObjectInfo, Store
from lego_ray.storage.remains import is_probe, is_temporary, remove, temporaries

PROBE = "probe"
LEASE = "rest of a refresh"
WRITING = "file being written"
COMMIT = "commit being written"

_REFRESH = f"{FOLDER}refresh/"
_OF_A_LEASE = re.compile(r"lease-\d{8}\.json|beat-\d{8}-\d{8}|look-[0-9a-f]{16}")
# The Delta library's, on a disk: a file before it gets its name, and a commit before it is one.
_OF_DELTA = re.compile(
    r"(adapters|merges|merge_sites|msus|groups)/"
    r"(_delta_log/_commit_[0-9a-f-]+\.json\.tmp|(_delta_log/)?[^/]+\.(json|parquet)#\d+)"
)


@dataclass(frozen=True, slots=True)
class Remains:
    """Objects of one kind in one folder.

    Attributes:
        folder: Where, below the store's root; the folder of the library for those of a refresh.
        kind: What they are.
        infos: They.
    """

    folder: str
    kind: str
    infos: tuple[ObjectInfo, ...]

    @property
    def newest(self) -> datetime | None:
        """When the last of them was written; None if the store does not say of each."""
        times = [info.modified_at for info in self.infos]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None


def find_remains(
    store: Store, infos: Iterable[ObjectInfo], younger_than: datetime, *, catalog: bool = False
) -> list[Remains]:
    """Finds what was left below a root before some time.

    A lease counts as a whole: while its holder lives, one of its objects is seconds old.

    Args:
        store: The root.
        infos: What it lists.
        younger_than: What was written after this may be of a process that is at it.
        catalog: Whether the root is a catalog, in whose tables the Delta library writes.
    """
    found: dict[tuple[str, str], list[ObjectInfo]] = {}
    for info in [*infos, *temporaries(store)]:
        place = _placed(info.key, catalog)
        if place is not None:
            found.setdefault(place, []).append(info)
    remains = [Remains(*place, tuple(infos)) for place, infos in sorted(found.items())]
    return [each for each in remains if each.newest is not None and each.newest <= younger_than]


def remove_remains(store: Store, remains: Remains) -> Remains:
    """Removes what was found, except what was written again since; returns what it removed."""
    gone: list[ObjectInfo] = []
    if remains.kind == LEASE:
        prefix = f"{remains.folder}/{_REFRESH}" if remains.folder else _REFRESH
        now = [i for i in store.list(prefix) if _OF_A_LEASE.fullmatch(i.key[len(prefix) :])]
        if [(i.key, i.version) for i in now] != [(i.key, i.version) for i in remains.infos]:
            return Remains(remains.folder, remains.kind, ())
    for info in remains.infos:
        if not is_temporary(info.key):
            try:
                if store.stat(info.key) != info:
                    continue
            except ObjectNotFound:
                continue
        remove(store, info.key)
        gone.append(info)
    return Remains(remains.folder, remains.kind, tuple(gone))


def _placed(key: str, catalog: bool) -> tuple[str, str] | None:
    folder, _, name = key.rpartition("/")
    if is_probe(name):
        return folder, PROBE
    if is_temporary(name):
        return folder, WRITING
    if _OF_A_LEASE.fullmatch(name) and f"/{folder}/".endswith(f"/{_REFRESH}"):
        return f"/{folder}/".removesuffix(_REFRESH).strip("/"), LEASE
    if catalog and _OF_DELTA.fullmatch(key):
        return folder, COMMIT
    return None
