"""Which directories below a root are lego-ray's, and which of them nothing refers to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lego_ray.catalog.ancestry import known_uris
from lego_ray.catalog.history import list_merges
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, MalformedAdapter, StorageError, StoreUnavailable
from lego_ray.formats.strict_json import parse_object
from lego_ray.output.checkpoints.run_folder import ENDING, FOLDER, LARGEST_MARKER, MARKER
from lego_ray.output.manifest import (
    LARGEST,
    MANIFEST_KEY,
    marker_of,
    parse_manifest,
)
from lego_ray.storage.base import ObjectInfo, Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.links import lies_inside

# Of all that may lie in a run's folder, what lego-ray writes there.
_OF_A_RUN = re.compile(rf"run\.json|[0-9a-f]{{64}}/[^/]+{re.escape(ENDING)}")

OUTPUT = "output"
CUT_SHORT = "publish cut short"
UNFINISHED = "unfinished run"
REST = "rest of a run"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that has a manifest or a run's folder in it.

    Attributes:
        folder: Its path below the root; empty for the root itself.
        files: The files directly in it, by name.
        run: Files of its run's folder that lego-ray wrote, by path below the directory.
    """

    folder: str
    files: Mapping[str, ObjectInfo]
    run: Mapping[str, ObjectInfo]

    def key(self, name: str) -> str:
        """A file's path below the root."""
        return f"{self.folder}/{name}" if self.folder else name

    @property
    def newest(self) -> datetime | None:
        """When the last of its files was written; None if the store does not say of each."""
        times = [info.modified_at for info in (*self.files.values(), *self.run.values())]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None


@dataclass(frozen=True, slots=True)
class References:
    """What the catalog refers to.

    Attributes:
        outputs: URIs of recorded outputs.
        merges: Ids of recorded merges, of which a copy may lie anywhere.
        sources: URIs of adapters that recorded merges are made of.
    """

    outputs: frozenset[str]
    merges: frozenset[str]
    sources: frozenset[str]


@dataclass(frozen=True, slots=True)
class Waste:
    """What can go.

    Attributes:
        directory: Where it is.
        kind: `output`, `publish cut short`, `unfinished run`, or `rest of a run` of a merge that is
            recorded and stays.
        name: Name of the merge.
        merge_id: Its id.
        names: The files, by path below the directory, in the order to delete them in.
    """

    directory: Directory
    kind: str
    name: str
    merge_id: str
    names: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Size of the files."""
        return sum((self.directory.files.get(n) or self.directory.run[n]).size for n in self.names)


@dataclass(frozen=True, slots=True)
class Kept:
    """What lego-ray wrote, no row refers to, and must stay.

    Attributes:
        directory: Where it is.
        reason: Why.
    """

    directory: Directory
    reason: str


@dataclass(slots=True)
class _Folders:
    files: dict[str, dict[str, ObjectInfo]] = field(default_factory=dict)
    run: dict[str, dict[str, ObjectInfo]] = field(default_factory=dict)


def references_of(catalog: Catalog) -> References:
    """Reads what the catalog refers to now.

    Raises:
        CatalogNotFound: If nothing was ever merged into this catalog.
    """
    merges = list_merges(catalog).to_pylist()
    if not merges:  # a refresh that failed leaves an empty table, and all would be garbage
        raise CatalogNotFound(
            catalog.table_uri("merges"), "it has no rows", "Check --catalog, or merge first."
        )
    held = {adapter_id for merge in merges for adapter_id in merge["adapter_ids"]}
    uris = known_uris(catalog)
    return References(
        outputs=frozenset(merge["output_uri"] for merge in merges),
        merges=frozenset(merge["merge_id"] for merge in merges),
        sources=frozenset(uri for i in held & uris.keys() for uri in uris[i]),
    )


def directories_of(infos: Iterable[ObjectInfo]) -> list[Directory]:
    """Sorts what a root holds into the directories lego-ray has been at, in order of their path."""
    found = _Folders()
    for info in infos:
        above, inside, below = f"/{info.key}".partition(f"/{FOLDER}")
        if inside and _OF_A_RUN.fullmatch(below):
            found.run.setdefault(above.lstrip("/"), {})[f"{FOLDER}{below}"] = info
        elif not inside:
            folder, _, name = info.key.rpartition("/")
            found.files.setdefault(folder, {})[name] = info
    ours = {folder for folder, files in found.files.items() if MANIFEST_KEY in files}
    return [
        Directory(folder, found.files.get(folder, {}), found.run.get(folder, {}))
        for folder in sorted(ours | found.run.keys())
    ]


def look_again(store: Store, waste: Waste) -> Directory | None:
    """The directory of some waste as it is now, or None if it is no longer what was found.

    It is if the files to delete are those that were looked at, and there are no others.
    """
    was = waste.directory
    prefix = f"{was.folder}/" if was.folder else ""
    now = next((d for d in directories_of(store.list(prefix)) if d.folder == was.folder), None)
    if now is None or now.run != was.run or now.files.keys() != was.files.keys():
        return None
    return now if all(now.files.get(n) == was.files.get(n) for n in waste.names) else None


def examine(
    store: Store,
    directory: Directory,
    references: References,
    younger_than: datetime,
    *,
    hashed: bool = False,
) -> Waste | Kept | None:
    """Says what of a directory can go, what must stay and why, or None if it is all referred to.

    Args:
        store: The root.
        directory: The directory.
        references: What the catalog refers to.
        younger_than: A directory with a file written after this may be of a running merge.
        hashed: Whether its files are known to be those of the manifest.
    """
    here = store.place.join(directory.folder)
    uri = str(here)
    manifest = _manifest(store, directory) if MANIFEST_KEY in directory.files else None
    if MANIFEST_KEY in directory.files and manifest is None:
        return Kept(directory, "its manifest cannot be read")
    recorded = uri in references.outputs or (manifest or {}).get("merge_id") in references.merges
    # An adapter that is a single file is a source by its own URI.
    is_source = any(
        each in references.sources for each in (uri, *(str(here.join(n)) for n in directory.files))
    )
    if (recorded or is_source) and not directory.run:
        return None
    waste = _waste(store, directory, manifest, keep_output=recorded or is_source)
    if isinstance(waste, Kept):
        return waste
    if directory.newest is None or directory.newest > younger_than:
        return Kept(directory, f"the last of its files was written at {_when(directory.newest)}")
    if not all(lies_inside(store, directory.key(name)) for name in waste.names):
        return Kept(directory, "it is reached by a link, so it may lie elsewhere")
    return waste if hashed else _unless_changed(store, waste, manifest)


def _waste(
    store: Store, directory: Directory, manifest: dict[str, Any] | None, keep_output: bool
) -> Waste | Kept:
    run = sorted(directory.run, key=lambda name: name == MARKER)
    if manifest is None or keep_output:
        marker = _marker(store, directory)
        if marker is None:
            return Kept(directory, f"there is no {MARKER} that this release can read")
        published = keep_output or (manifest is not None and marker_of(manifest) in directory.files)
        kind = REST if published else UNFINISHED
        return Waste(directory, kind, marker["name"], marker["plan"], tuple(run))
    there = [name for name in sorted(manifest["files"]) if name in directory.files]
    # What makes it an adapter goes first, what says whose it is last: a reader finds it whole or not
    # at all, and a collection that is cut short can be finished.
    last = marker_of(manifest)
    names = (*sorted(there, key=lambda name: name != last), *run, MANIFEST_KEY)
    kind = OUTPUT if last in directory.files else CUT_SHORT
    return Waste(directory, kind, str(manifest.get("name", "")), manifest["merge_id"], names)


def _unless_changed(store: Store, waste: Waste, manifest: dict[str, Any] | None) -> Waste | Kept:
    """Holds files against the manifest: one with other bytes is someone's work by now."""
    if waste.kind not in (OUTPUT, CUT_SHORT) or manifest is None:
        return waste
    directory = waste.directory
    for name, expected in sorted(manifest["files"].items()):
        info = directory.files.get(name)
        if info is None:
            continue
        same = info.size == expected["bytes"] and (
            hashlib.sha256(store.read(directory.key(name))).hexdigest() == expected["sha256"]
        )
        if not same:
            return Kept(directory, f"{name} is not what was published")
    return waste


def _manifest(store: Store, directory: Directory) -> dict[str, Any] | None:
    try:
        data = read_at_most(store, directory.key(MANIFEST_KEY), LARGEST)
        return parse_manifest(data, store.uri)
    except StoreUnavailable:
        raise
    except (MalformedAdapter, StorageError):
        return None


def _marker(store: Store, directory: Directory) -> dict[str, Any] | None:
    try:
        data = read_at_most(store, directory.key(MARKER), LARGEST_MARKER)
        marker = parse_object(data, MARKER)
        return {"name": str(marker["name"]), "plan": str(marker["plan"])}
    except StoreUnavailable:
        raise
    except (MalformedAdapter, StorageError, KeyError):
        return None


def _when(moment: datetime | None) -> str:
    return (
        "a time the store does not say" if moment is None else moment.isoformat(timespec="seconds")
    )
