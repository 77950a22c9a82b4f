"""A base model where it lies: its weights files by their headers, and the files beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lego_ray.errors import AdapterRefused, MalformedAdapter, ObjectNotFound, UnusableBase
from lego_ray.formats.architectures.checkpoints import is_checkpoint
from lego_ray.formats.base_weights import (
    CONFIG,
    PIPELINE,
    check_config,
    check_tensors,
    find_weights,
    in_one_file,
    is_weights,
    parse_index,
    unread_weights,
)
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.formats.strict_json import parse_object
from lego_ray.storage.base import ByteRange, ObjectInfo, Store
from lego_ray.storage.places import Place

# A configuration has some kilobytes; the index of a model with 100,000 tensors has 10 MB.
_LARGEST_JSON = 100 << 20
# Bytes at each end of a file's tensors that are part of its identity.
_SAMPLE = 64 << 10
_AGAIN = "Download the base model again."


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A weights file of a base model.

    Attributes:
        key: Its key in the base model's store.
        size: Bytes.
        version: The store's mark of it.
        header: Its bytes before the first tensor's.
        spans: Its tensors, in the order of the file.
        metadata: What its header says beside them.
        identity: Hex sha256 over header and samples, which tells it from other files anywhere.
        changed_at: On disk, the time of its last status change; empty in other stores.
    """

    key: str
    size: int
    version: str
    header: bytes = field(repr=False)
    spans: tuple[TensorSpan, ...] = field(repr=False)
    metadata: Mapping[str, str]
    identity: str
    changed_at: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class BaseTensor:
    """A tensor of a base model.

    Attributes:
        file: Its file.
        span: Where it lies there.
    """

    file: BaseFile
    span: TensorSpan


@dataclass(frozen=True)
class Component:
    """A model with weights of its own: the whole base model, or a part of a pipeline.

    Attributes:
        folder: Key of its folder; empty for the whole.
        files: Its weights files, sorted by key.
        index: Key of the file that lists their tensors, or empty if there is one file.
        config: `config.json`, parsed; empty if there is none.
        listing: The file `index` as it was listed; None if there is none.
    """

    folder: str
    files: tuple[BaseFile, ...]
    index: str
    config: Mapping[str, object]
    listing: ObjectInfo | None = None

    @cached_property
    def tensors(self) -> Mapping[str, BaseTensor]:
        """Its tensors, by name."""
        return {span.name: BaseTensor(file, span) for file in self.files for span in file.spans}


@dataclass(frozen=True)
class BaseModel:
    """A base model, as its headers describe it.

    Attributes:
        store: Where it lies; of a repository on the Hub, the commit.
        components: Its models, sorted by folder.
        others: Its files without weights, sorted by key.
        left: Keys of files with weights that it is not loaded from.
        file: Key of the file, if it is a checkpoint in one file, as ComfyUI has it; else empty.
    """

    store: Store
    components: tuple[Component, ...]
    others: tuple[ObjectInfo, ...]
    left: tuple[str, ...]
    file: str = ""

    @property
    def uri(self) -> str:
        """Its place, at the commit where there is one."""
        return f"{self.folder}/{self.file}" if self.file else self.folder

    @property
    def folder(self) -> str:
        """The place that keys of its files are below, at the commit where there is one."""
        return str(self.store.place.pinned(self.store.revision))

    @property
    def is_pipeline(self) -> bool:
        """Whether its components lie in folders, as diffusers saves pipelines."""
        return any(component.folder for component in self.components)

    def identity(self, files: Iterable[BaseFile]) -> list[list[str]]:
        """What tells its contents from others', of some of its weights files, sorted."""
        return sorted([file.key, file.identity] for file in files)


def read_base(place: Place) -> BaseModel:
    """Reads the headers of a base model; no weights but samples.

    Args:
        place: Its directory, prefix or repository, or its file.

    Raises:
        UnusableBase: If it is not a model's folder with weights in safetensors, nor an image model's
            checkpoint in one such file, or it is quantized.
        ObjectNotFound: If nothing is there.
        StorageError: If it cannot be read.
    """
    if is_weights(str(place).rpartition("/")[2]):
        return _in_one_file(place)
    store = _opened(place)
    listed = {info.key: info for info in store.list() if not _is_hidden(info.key)}
    if not listed:
        raise ObjectNotFound(store.uri, "there is no base model there", "Check --base.")
    components = tuple(_components(store, listed))
    loaded = {file.key for each in components for file in each.files}
    indices = {each.index for each in components}
    others = tuple(
        info for key, info in sorted(listed.items()) if not is_weights(key) and key not in indices
    )
    left = (key for key in sorted(listed) if is_weights(key) and key not in loaded | indices)
    return BaseModel(store, components, others, tuple(left))


def _opened(place: Place) -> Store:
    """Its store, at the commit where there is one."""
    store = place.open()
    pinned = store.place.pinned(store.revision)
    return store if str(pinned) == str(store.place) else pinned.open()


def _in_one_file(place: Place) -> BaseModel:
    """A checkpoint of an image model: its denoiser, and other parts of the pipeline beside it."""
    parts = place.split()
    if parts is None or not parts[1].endswith(".safetensors"):
        raise in_one_file(str(place))
    store = _opened(parts[0])
    file = _file(store, store.stat(parts[1]))
    component = Component("", (file,), "", {})
    if not is_checkpoint(component.tensors):
        raise in_one_file(str(place))
    check_tensors({n: t.span.dtype for n, t in component.tensors.items()}, str(place))
    return BaseModel(store, (component,), (), (), parts[1])


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _components(store: Store, listed: Mapping[str, ObjectInfo]) -> Iterator[Component]:
    folders: dict[str, dict[str, ObjectInfo]] = {}
    for key, info in listed.items():
        folder, _, name = key.rpartition("/")
        folders.setdefault(folder, {})[name] = info
    here = folders.get("", {})
    if PIPELINE not in here:
        yield _component(store, "", here)
        return
    models = [
        name
        for name, files in sorted(folders.items())
        if name and "/" not in name and CONFIG in files
    ]
    models = [name for name in models if any(map(is_weights, folders[name]))]
    if not models:
        raise unread_weights(store.uri, here)
    for name in models:
        yield _component(store, name, folders[name])


def _component(store: Store, folder: str, names: Mapping[str, ObjectInfo]) -> Component:
    where = f"{store.uri}/{folder}".rstrip("/")
    config = _json(store, names[CONFIG]) if CONFIG in names else {}
    found = find_weights(names)
    if found is None:
        check_config(config, f"{where}/{CONFIG}")  # the better answer of a quantized model
        raise unread_weights(where, names)
    check_config(config, f"{where}/{CONFIG}")
    listing: Mapping[str, str] = {}
    if found.index:
        info = names[found.index]
        listing = parse_index(_read(store, info), f"{where}/{found.index}")
    files = []
    for name in sorted(set(listing.values())) or found.names:
        if name not in names:
            problem = f"{found.index} lists {name}, which is not there"
            raise UnusableBase(where, problem, _AGAIN)
        files.append(_file(store, names[name]))
    index = names[found.index] if found.index else None
    component = Component(folder, tuple(files), index.key if index else "", config, index)
    _check_listing(component, listing, where)
    check_tensors({n: t.span.dtype for n, t in component.tensors.items()}, where)
    return component


def _check_listing(component: Component, listing: Mapping[str, str], where: str) -> None:
    seen: set[str] = set()
    for file in component.files:
        for span in file.spans:
            if span.name in seen:
                raise UnusableBase(where, f"two of its files have a tensor {span.name}", _AGAIN)
            seen.add(span.name)
    for name, file_name in listing.items():
        tensor = component.tensors.get(name)
        if tensor is None or tensor.file.key.rpartition("/")[2] != file_name:
            problem = f"its index says that {file_name} has {name}, and it has not"
            raise UnusableBase(where, problem, _AGAIN)


def _read(store: Store, info: ObjectInfo) -> bytes:
    if info.size > _LARGEST_JSON:
        problem = f"it has {info.size} bytes, more than such a file can need"
        raise UnusableBase(f"{store.uri}/{info.key}", problem, _AGAIN)
    return store.read(info.key, info.version)


def _json(store: Store, info: ObjectInfo) -> dict[str, object]:
    where = f"{store.uri}/{info.key}"
    try:
        return parse_object(_read(store, info), where)
    except MalformedAdapter as error:
        raise UnusableBase(where, error.problem, _AGAIN) from None


def _file(store: Store, info: ObjectInfo) -> BaseFile:
    """Reads a weights file's header and samples."""
    where = f"{store.uri}/{info.key}"

    def window(start: int, end: int) -> bytes:
        end = min(end, info.size)
        if end <= start:
            return b""
        return bytes(store.read_ranges(info.key, [ByteRange(start, end)], info.version)[0])

    try:
        first = window(0, 2 * _SAMPLE)
        data = LENGTH_BYTES + header_length(first[:LENGTH_BYTES], info.size, where)
        if data > len(first):
            first += window(len(first), data)
        spans, metadata = parse_header(first[LENGTH_BYTES:data], info.size, where)
    except AdapterRefused as error:
        raise UnusableBase(error.where, error.problem, _AGAIN) from None
    digest = hashlib.sha256()
    head = first[data : data + _SAMPLE]
    if len(head) < min(_SAMPLE, info.size - data):
        head = window(data, data + _SAMPLE)
    for part in (first[:data], head, window(max(data, info.size - _SAMPLE), info.size)):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return BaseFile(
        info.key,
        info.size,
        info.version,
        first[:data],
        spans,
        metadata,
        digest.hexdigest(),
        info.changed_at,
    )
