"""Where adapters lie under a source. Lists names; reads nothing.

A directory with an `adapter_config.json` is one adapter, and its other files are that adapter's. In any
other directory, each weights file stands alone: adapters of image models are single files, any
number of them side by side. Files of types that may hold a LoRA and are not read are listed too, so that
they can be named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from lego_ray.errors import AccessDenied, ObjectNotFound, UnsupportedAdapter
from lego_ray.formats.hub_tags import SIDECARS
from lego_ray.formats.layouts import LAYOUTS, layout_named
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.record import Refused
from lego_ray.planning.run_names import STATE_FOLDER, is_numbered_mlx, is_training_file
from lego_ray.sources.beside import SHARD, is_foreign
from lego_ray.storage.base import Denied, HasFolders, ObjectInfo, Store
from lego_ray.storage.places import FilePlace, Place
from lego_ray.storage.uri import named_on_hub, parse_uri

CARD_NAME = "README.md"
# What the tools that write single files call them; a .bin of any other name is not an adapter.
LONE_BIN_NAME = "pytorch_lora_weights.bin"
# What diffusers calls the one adapter in a directory.
LONE_NAMES = ("pytorch_lora_weights.safetensors", LONE_BIN_NAME)
SAFETENSORS = ".safetensors"
# Files that PEFT means by a directory, whether it is complete or not.
PEFT_NAMES = layout_named("peft").weights_names


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
        folders: The files of every directory of the source, by its key and their names.
        only: The name of the one file meant of its source, or empty.
    """

    store: Store
    folder: str
    uri: str
    config: ObjectInfo | None
    weights: ObjectInfo | None
    card: ObjectInfo | None
    folders: Mapping[str, Mapping[str, ObjectInfo]]
    only: str = ""

    @property
    def root(self) -> str:
        """The URI of the source, as those of its files begin."""
        return str(_pinned(self.store))

    @property
    def place(self) -> Place:
        """Its directory."""
        return _pinned(self.store).join(self.folder)

    @property
    def beside(self) -> Mapping[str, ObjectInfo]:
        """The files of its directory, by name."""
        return self.folders[self.folder]

    @property
    def sidecar(self) -> ObjectInfo | None:
        """What a hub's tool wrote beside its weights file, if that is one of an image model."""
        if self.weights is None or self.config is not None or not self.is_file:
            return None
        stem = self.name_of(self.weights).removesuffix(SAFETENSORS)
        return next((self.beside[stem + e] for e in SIDECARS if stem + e in self.beside), None)

    @property
    def is_file(self) -> bool:
        """Whether it is one file of its directory, and not the directory."""
        if self.weights is None:
            return False
        name = self.name_of(self.weights)
        return is_numbered_mlx(name) or (self.config is None and name not in PEFT_NAMES)

    @property
    def is_trained_here(self) -> bool:
        """Whether files to resume training from lie in its directory or the one above."""
        above = self.folder.rpartition("/")[0]
        folders = (self.folder, above) if self.folder else (self.folder,)
        return any(
            is_training_file(name)
            for folder in folders
            for place in (folder, f"{folder}/{STATE_FOLDER}".lstrip("/"))
            for name in self.folders.get(place, ())
        )

    def name_of(self, info: ObjectInfo) -> str:
        """The name of a file of its directory."""
        return info.key[len(self.folder) :].lstrip("/")

    def uri_of(self, info: ObjectInfo) -> str:
        """The URI of a file of its directory."""
        return str(_pinned(self.store).join(info.key))

    def is_meant(self, patterns: Sequence[str]) -> bool:
        """Whether a glob pattern matches its name, its path below the source, or its URI.

        A file goes by its own name and path and by its directory's.
        """
        names = [self.folder, self.folder.rpartition("/")[2], self.uri]
        if self.weights is not None and (self.is_file or self.config is None):
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
        return self.uri in uris or str(self.place) in uris


def open_source(source: str | Place) -> tuple[Store, str]:
    """The store of a source, and the name of the one file meant in it, or empty for all.

    Args:
        source: A directory, prefix or repository, or a weights file in one; as the user names it, or
            its place.
    """
    place = source if isinstance(source, Place) else parse_uri(source)
    if str(place).endswith((SAFETENSORS, LONE_BIN_NAME)) and (parts := place.split()):
        above, name = parts
        with contextlib.suppress(ObjectNotFound):
            store = above.open()
            store.stat(name)
            return store, name
    return place.open(), ""


def open_file_or_folder(source: str | Place) -> tuple[Store, str]:
    """As `open_source`, of a file of any type; a configuration stands for its directory.

    Args:
        source: Any place that can be read.
    """
    store, only = open_source(source)
    parts = store.place.split()
    if not only and parts is not None and "." in parts[1]:
        above, name = parts
        # A bucket that may be read and not listed says of a missing key that access is denied.
        with contextlib.suppress(ObjectNotFound, AccessDenied):
            beside = above.open()
            beside.stat(name)
            return beside, "" if name == CONFIG_NAME else name
    return store, only


def find(
    store: Store,
    only: str = "",
    listed: Callable[[str], object] = lambda where: None,
    denied: Denied | None = None,
) -> Iterator[Found]:
    """Yields what lies under a source, in key order.

    Args:
        store: The source.
        only: The name of the one file meant, or empty.
        listed: Called with the source for each file that is listed; may raise to end it.
        denied: Called for each folder that must not be read; without it, that is an error.

    Raises:
        ObjectNotFound: If there is nothing there.
        AccessDenied: If the source itself must not be read.
    """
    folders: dict[str, dict[str, ObjectInfo]] = {}
    for info in _listing(store, only, denied):
        listed(store.uri)
        folder, _, name = info.key.rpartition("/")
        folders.setdefault(folder, {})[name] = info
    if not folders and not _exists(store):
        raise ObjectNotFound(store.uri, "there is nothing there", _where_else(store.place))
    root = _pinned(store)
    for folder in sorted(folders):
        for each in _in_folder(store, root, folder, folders):
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
    for each in _in_folder(store, _pinned(store), folder, {**found.folders, folder: files}):
        if each.uri == found.uri:
            return replace(each, only=found.only)
    return None


def _in_folder(
    store: Store, root: Place, folder: str, folders: Mapping[str, Mapping[str, ObjectInfo]]
) -> Iterator[Found]:
    files = folders[folder]
    card, config = files.get(CARD_NAME), files.get(CONFIG_NAME)

    def found(key: str, weights: ObjectInfo | None) -> Found:
        return Found(store, folder, str(root.join(key)), config, weights, card, folders)

    if config is not None:
        names = [name for layout in LAYOUTS for name in layout.weights_names]
        weights = next((files[name] for name in names if name in files), None)
        numbered = sorted(filter(is_numbered_mlx, files)) if _may_be_mlx(weights) else []
        if weights is not None or not numbered:
            yield found(folder, weights)
        for name in numbered:
            yield found(files[name].key, files[name])
        return
    has_safetensors = any(name.endswith(SAFETENSORS) for name in files)
    for name, info in sorted(files.items()):
        if name in PEFT_NAMES:
            # Of one that is incomplete, by the URI it will have when it is complete.
            if name == WEIGHTS_NAME or WEIGHTS_NAME not in files:
                yield found(folder, info)
        elif name.endswith(SAFETENSORS):
            if not _is_later_shard(name, files):
                yield found(info.key, info)
        elif name == LONE_BIN_NAME:
            if not has_safetensors:
                yield found(info.key, info)
        elif is_foreign(name):
            yield found(info.key, info)


def _may_be_mlx(weights: ObjectInfo | None) -> bool:
    return weights is None or weights.key.rpartition("/")[2] in layout_named("mlx").weights_names


def _is_later_shard(name: str, files: Mapping[str, ObjectInfo]) -> bool:
    """Whether a file is a part of one whose first part stands for all."""
    shard = SHARD.fullmatch(name)
    first = f"{shard[1]}-{1:05d}-of-{shard[3]}{SAFETENSORS}" if shard else name
    return first != name and first in files


def refused_folder(store: Store, key: str, error: AccessDenied) -> Refused:
    """The refusal of a folder, or of a file, that must not be read.

    Args:
        store: The source it is in.
        key: Its key.
        error: What reading it gave.
    """
    hint = f"{error.hint.rstrip('.')}, or leave it out with --exclude."
    refusal = AccessDenied(error.where, error.problem, hint)
    uri = f"{_pinned(store)}/{key}".encode("utf-8", "backslashreplace").decode()
    return Refused(uri, "refused", f"{type(error).__name__}: {refusal}")


def is_excluded(store: Store, key: str, patterns: Sequence[str]) -> bool:
    """Whether a glob pattern matches a folder's name, its path below the source, or its URI."""
    names = (key, key.rpartition("/")[2], f"{_pinned(store)}/{key}")
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _listing(store: Store, only: str, denied: Denied | None = None) -> Iterator[ObjectInfo]:
    if not only:
        if denied is not None and isinstance(store, HasFolders):
            yield from store.list_open(denied)
        else:
            yield from store.list()
        return
    for name in (only, CONFIG_NAME, CARD_NAME):
        with contextlib.suppress(ObjectNotFound):
            yield store.stat(name)


def _exists(store: Store) -> bool:
    """An empty directory exists; an empty prefix of a bucket is taken for a missing one."""
    place = store.place
    return not isinstance(place, FilePlace) or Path(place.path).is_dir()


def _where_else(place: Place) -> str:
    """What to do about a source that is not there."""
    here = str(Path.cwd()) + "/"
    name = str(place).removeprefix(here)
    meant = named_on_hub(name) if isinstance(place, FilePlace) and name != str(place) else ""
    return (
        f"Check the path. A repository on the Hub is given as {meant}."
        if meant
        else "Check the path."
    )


def _pinned(store: Store) -> Place:
    """The store's root with a hub repository's revision replaced by the commit it means now."""
    return store.place.pinned(store.revision)
