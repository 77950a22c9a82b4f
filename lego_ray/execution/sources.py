"""Where adapters lie under a source. Lists names; reads nothing.

A directory with an `adapter_config.json` is one adapter, and its other files are that adapter's. In any
other directory, each weights file stands alone: kohya's and diffusers' adapters are single files, any
number of them side by side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from lego_ray.errors import ObjectNotFound, UnsupportedAdapter, UnsupportedUri
from lego_ray.formats import mlx
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.record import Refused
from lego_ray.storage.base import ObjectInfo, Store
from lego_ray.storage.open import open_store
from lego_ray.storage.uri import FileUri, HubUri, join, normalise_uri, parse_uri

BIN_NAME = "adapter_model.bin"
CARD_NAME = "README.md"
# What the tools that write single files call them; a .bin of any other name is no one's adapter.
LONE_BIN_NAME = "pytorch_lora_weights.bin"
SAFETENSORS = ".safetensors"
# Files that PEFT means by a directory, whether it is complete or not.
PEFT_NAMES = (WEIGHTS_NAME, BIN_NAME)


@dataclass(frozen=True, slots=True)
class Found:
    """An adapter, or something that looks like one.

    Attributes:
        store: The source it is in.
        folder: Key of its directory.
        uri: The directory's URI, or the file's if it stands alone.
        config: Its configuration, or None.
        weights: Its weights file, or None if there is none beside its configuration.
        card: The model card in its directory, or None.
        only: The name of the one file meant of its source, or empty.
    """

    store: Store
    folder: str
    uri: str
    config: ObjectInfo | None
    weights: ObjectInfo | None
    card: ObjectInfo | None
    only: str = ""

    def name_of(self, info: ObjectInfo) -> str:
        """The name of a file of its directory."""
        return info.key[len(self.folder) :].lstrip("/")

    def uri_of(self, info: ObjectInfo) -> str:
        """The URI of a file of its directory."""
        return join(_pinned(self.store), info.key)

    def is_meant(self, patterns: Sequence[str]) -> bool:
        """Whether a glob pattern matches its name, its path below the source, or its URI.

        A file goes by its own name and path and by its directory's.
        """
        names = [self.folder, self.folder.rpartition("/")[2], self.uri]
        if self.config is None and self.weights is not None:
            key = self.weights.key
            names += [key, key.rpartition("/")[2], key.rpartition("/")[2].rpartition(".")[0]]
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    def refusal(self) -> Refused | None:
        """Its refusal, if its name cannot be written down or its path leads elsewhere."""
        info = self.weights or self.config
        key = info.key if info else ""
        shown = self.uri.encode("utf-8", "backslashreplace").decode()
        if shown != self.uri:
            problem = "its name is not UTF-8"
        elif any(part in ("", ".", "..") for part in key.split("/")):
            shown = f"{_pinned(self.store)}/{key}"  # to the letter: it may look like another's URI
            problem = "its path has a part that is empty, '.' or '..', which may lead elsewhere"
        else:
            return None
        error = UnsupportedAdapter(shown, problem, "Rename it, or leave it out with --exclude.")
        return Refused(shown, "refused", f"{type(error).__name__}: {error}")

    def lies_at(self, uris: set[str]) -> bool:
        """Whether one of some URIs is its own or its directory's."""
        return self.uri in uris or join(_pinned(self.store), self.folder) in uris


def open_source(source: str) -> tuple[Store, str]:
    """The store of a source, and the name of the one file meant in it, or empty for all.

    Args:
        source: A directory, prefix or repository, or a weights file in one.
    """
    uri = normalise_uri(source)
    if uri.endswith((SAFETENSORS, LONE_BIN_NAME)):
        above, _, name = uri.rpartition("/")
        with contextlib.suppress(ObjectNotFound, UnsupportedUri):
            store = open_store(above or "/")
            store.stat(name)
            return store, name
    return open_store(source), ""


def find(store: Store, only: str = "") -> Iterator[Found]:
    """Yields what lies under a source, in key order.

    Args:
        store: The source.
        only: The name of the one file meant, or empty.

    Raises:
        ObjectNotFound: If there is nothing there.
    """
    folders: dict[str, dict[str, ObjectInfo]] = {}
    for info in _listing(store, only):
        folder, _, name = info.key.rpartition("/")
        folders.setdefault(folder, {})[name] = info
    if not folders and not _exists(store):
        raise ObjectNotFound(store.uri, "there is nothing there", "Check the path.")
    root = _pinned(store)
    for folder, files in sorted(folders.items()):
        for each in _in_folder(store, root, folder, files):
            yield replace(each, only=only)


def find_again(found: Found) -> Found | None:
    """The same adapter as it lies there now, or None if it is gone.

    Args:
        found: The adapter as it was.
    """
    store, folder = found.store, found.folder
    below = f"{folder}/" if folder else ""
    files: dict[str, ObjectInfo] = {}
    with contextlib.suppress(ObjectNotFound):
        listing = _listing(store, found.only) if found.only else store.list(below)
        files = {i.key[len(below) :]: i for i in listing if i.key.rpartition("/")[0] == folder}
    for each in _in_folder(store, _pinned(store), folder, files):
        if each.uri == found.uri:
            return replace(each, only=found.only)
    return None


def _in_folder(
    store: Store, root: str, folder: str, files: dict[str, ObjectInfo]
) -> Iterator[Found]:
    card = files.get(CARD_NAME)
    if config := files.get(CONFIG_NAME):
        names = (*PEFT_NAMES, mlx.WEIGHTS_NAME)
        weights = next((files[name] for name in names if name in files), None)
        yield Found(store, folder, join(root, folder), config, weights, card)
        return
    has_safetensors = any(name.endswith(SAFETENSORS) for name in files)
    for name, info in sorted(files.items()):
        if name in PEFT_NAMES:
            # Of one that is incomplete, by the URI it will have when it is complete.
            if name == WEIGHTS_NAME or WEIGHTS_NAME not in files:
                yield Found(store, folder, join(root, folder), None, info, card)
        elif name.endswith(SAFETENSORS) or (name == LONE_BIN_NAME and not has_safetensors):
            yield Found(store, folder, join(root, info.key), None, info, card)


def _listing(store: Store, only: str) -> Iterator[ObjectInfo]:
    if not only:
        yield from store.list()
        return
    for name in (only, CONFIG_NAME, CARD_NAME):
        with contextlib.suppress(ObjectNotFound):
            yield store.stat(name)


def _exists(store: Store) -> bool:
    """An empty directory is there; an empty prefix of a bucket is not told from a missing one."""
    parsed = parse_uri(store.uri)
    return not isinstance(parsed, FileUri) or Path(parsed.path).is_dir()


def _pinned(store: Store) -> str:
    """The store's root with a hub repository's revision replaced by the commit it means now."""
    parsed = parse_uri(store.uri)
    if isinstance(parsed, HubUri):
        return str(replace(parsed, revision=store.revision))
    return store.uri
