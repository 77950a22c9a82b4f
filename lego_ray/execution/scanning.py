"""Finds the adapters under some sources and reads their headers; never their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, cast

from lego_ray.errors import AdapterRefused, MalformedAdapter, ObjectNotFound, UnsupportedAdapter
from lego_ray.formats.identity import SAMPLE_BYTES, adapter_id, sample_windows
from lego_ray.formats.layouts import check_layout, recognise
from lego_ray.formats.model_card import ModelCard, parse_card
from lego_ray.formats.peft import FullWeights, read_adapter
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.record import AdapterRecord, Refused, TensorSpan
from lego_ray.formats.refusals import check_config
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.torch_bin import read_spans
from lego_ray.planning.inventory import Inventory
from lego_ray.storage.base import ByteRange, ObjectInfo, Store
from lego_ray.storage.open import open_store
from lego_ray.storage.ranged_file import RangedFile
from lego_ray.storage.uri import FileUri, HubUri, join, normalise_uri, parse_uri

BIN_NAME = "adapter_model.bin"
CARD_NAME = "README.md"
# One request brings the header of most adapters and the first sample with it.
FIRST_READ = 2 * SAMPLE_BYTES
# A configuration of a thousand sites by name is about 100 KB.
MAX_CONFIG_BYTES = 10 << 20
MAX_CARD_BYTES = 1 << 20
# Small reads that wait for a store, so more than there are cores.
THREADS = 16


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found and what it cost.

    Attributes:
        inventory: Adapters, taken and refused.
        bytes_read: Bytes fetched.
        requests: Read requests made.
    """

    inventory: Inventory
    bytes_read: int
    requests: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A directory that holds an adapter, or something that looks like one."""

    store: Store
    folder: str
    uri: str
    config: ObjectInfo | None
    weights: ObjectInfo | None
    card: ObjectInfo | None

    def key_uri(self, info: ObjectInfo) -> str:
        return join(self.uri, info.key[len(self.folder) :].lstrip("/"))


def scan_sources(
    sources: Sequence[str],
    *,
    exclude: Sequence[str] = (),
    full_weights: str = "refuse",
    skip: Iterable[str] = (),
) -> Scan:
    """Reads the headers of every adapter at or below some places.

    Args:
        sources: Directories, `s3://` prefixes or `hf://` repositories.
        exclude: Glob patterns; an adapter is left out if one matches its directory's name, its path
            below the source, or its URI.
        full_weights: The recipe's choice for weights that are not low-rank.
        skip: URIs not to look at, such as the output of the merge.

    Raises:
        ObjectNotFound: If a source does not exist.
        StorageError: If a source cannot be read.
    """
    mode = cast(FullWeights, full_weights.partition(":")[0])
    skipped = {normalise_uri(uri) for uri in skip}
    stores: list[Store] = []
    found: list[_Found] = []
    for source in sources:
        store = open_store(source)
        stores.append(store)
        here = list(_find(store))
        found += [f for f in here if f.uri not in skipped and not _excluded(f, exclude)]
    adapters: list[AdapterRecord] = []
    refused: list[Refused] = []
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        for result in threads.map(lambda f: _read(f, mode), found):
            if isinstance(result, Refused):
                refused.append(result)
            elif result is not None:
                adapters.append(result)
    return Scan(
        inventory=Inventory.of(adapters, refused),
        bytes_read=sum(store.bytes_read for store in stores),
        requests=sum(store.requests for store in stores),
    )


def _find(store: Store) -> Iterator[_Found]:
    """Directories with an adapter_config.json, and ones with weights of a layout known by sight."""
    folders: dict[str, dict[str, ObjectInfo]] = {}
    empty = True
    for info in store.list():
        empty = False
        folder, _, name = info.key.rpartition("/")
        folders.setdefault(folder, {})[name] = info
    if empty and not _exists(store):
        raise ObjectNotFound(store.uri, "there is nothing there", "Check the path.")
    root = _pinned(store)
    for folder, files in sorted(folders.items()):
        weights = files.get(WEIGHTS_NAME) or files.get(BIN_NAME)
        config = files.get(CONFIG_NAME)
        if config is None and weights is None:
            # A lone file of another tool, such as kohya's; read only to name it in a refusal.
            names = [n for n in sorted(files) if n.endswith(".safetensors")]
            for name in names:
                uri = join(root, files[name].key)
                yield _Found(store, folder, uri, None, files[name], None)
            continue
        if weights is None:
            weights = files.get("adapters.safetensors")  # mlx-lm's name
        yield _Found(store, folder, join(root, folder), config, weights, files.get(CARD_NAME))


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


def _excluded(found: _Found, patterns: Sequence[str]) -> bool:
    names = (found.folder, found.folder.rpartition("/")[2], found.uri)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _read(found: _Found, mode: FullWeights) -> AdapterRecord | Refused | None:
    try:
        if found.config is not None:
            return _read_adapter(found, found.config, mode)
        _refuse_by_sight(found)
        return None
    except AdapterRefused as error:
        return Refused(found.uri, "refused", f"{type(error).__name__}: {error}")


def _refuse_by_sight(found: _Found) -> None:
    """Refuses a lone weights file of a known layout; passes over any other file."""
    weights = found.weights
    if weights is None:
        return
    try:
        spans, _ = _tensor_table(found, weights)
    except AdapterRefused:
        if weights.key.endswith((WEIGHTS_NAME, BIN_NAME)):
            raise
        return
    names = [span.name for span in spans]
    if weights.key.endswith((WEIGHTS_NAME, BIN_NAME)) or recognise(names) is not None:
        check_layout(None, names, found.key_uri(weights))


def _read_adapter(found: _Found, config: ObjectInfo, mode: FullWeights) -> AdapterRecord:
    weights = found.weights
    if config.size > MAX_CONFIG_BYTES:
        raise MalformedAdapter(
            found.key_uri(config),
            f"it has {config.size} bytes, more than a configuration can need",
            "Export the adapter again.",
        )
    config_bytes = found.store.read(config.key)
    parse_object(config_bytes, found.key_uri(config))  # refused here, it is named by its place
    if weights is None:
        _refuse_other_peft(config_bytes, found, config)
        raise MalformedAdapter(
            found.uri,
            f"there is no {WEIGHTS_NAME} or {BIN_NAME} beside its configuration",
            "Finish copying the adapter, or leave it out with --exclude.",
        )
    spans, first = _tensor_table(found, weights)
    card = _card(found)
    return read_adapter(
        uri=found.uri,
        config=config_bytes,
        weights_key=weights.key[len(found.folder) :].lstrip("/"),
        spans=spans,
        n_bytes=weights.size,
        version=weights.version,
        revision=found.store.revision,
        adapter_id=adapter_id(
            config_bytes, spans, weights.size, *_samples(found, weights, spans, first)
        ),
        full_weights=mode,
        license=card.license,
        tags=card.tags,
    )


def _refuse_other_peft(config: bytes, found: _Found, info: ObjectInfo) -> None:
    """A method refused by name is a better answer than a missing file."""
    fields = parse_object(config, found.key_uri(info))
    check_layout(fields, (), found.key_uri(info))
    check_config(fields, found.key_uri(info))


def _card(found: _Found) -> ModelCard:
    if found.card is None or found.card.size > MAX_CARD_BYTES:
        return ModelCard()
    return parse_card(found.store.read(found.card.key))


def _tensor_table(found: _Found, weights: ObjectInfo) -> tuple[tuple[TensorSpan, ...], bytes]:
    """The weights file's tensors, and the bytes from its start that were read on the way."""
    where = found.key_uri(weights)
    if weights.key.endswith(".bin"):
        file = RangedFile(found.store, weights.key, weights.size)
        return read_spans(cast(BinaryIO, file), where), b""
    first = _range(found.store, weights, 0, FIRST_READ)
    length = header_length(first[:LENGTH_BYTES], weights.size, where)
    end = LENGTH_BYTES + length
    if end > len(first):
        first += _range(found.store, weights, len(first), end)
    spans, _ = parse_header(first[LENGTH_BYTES:end], weights.size, where)
    if not spans:
        raise UnsupportedAdapter(where, "it holds no tensors", "Export the adapter again.")
    return spans, first


def _samples(
    found: _Found, weights: ObjectInfo, spans: Sequence[TensorSpan], first: bytes
) -> tuple[bytes, bytes]:
    """The two windows of tensor bytes that the adapter's id is taken over."""

    def window(start: int, end: int) -> bytes:
        if end <= len(first):
            return first[start:end]
        return _range(found.store, weights, start, end)

    head, tail = sample_windows(spans)
    return window(*head), window(*tail)


def _range(store: Store, info: ObjectInfo, start: int, end: int) -> bytes:
    end = min(end, info.size)
    if end <= start:
        return b""
    return bytes(store.read_ranges(info.key, [ByteRange(start, end)])[0])
