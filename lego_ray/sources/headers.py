"""Reads the headers of the adapters under some sources; weights only where these leave a doubt."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from lego_ray.errors import (
    AdapterRefused,
    MalformedAdapter,
    ObjectNotFound,
    SourceChanged,
    UnsupportedAdapter,
)
from lego_ray.formats.identity import SAMPLE_BYTES, adapter_id, sample_windows, stand_in
from lego_ray.formats.layouts import check_layout, layout_named
from lego_ray.formats.model_card import ModelCard, parse_card
from lego_ray.formats.peft import FullWeights
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.reading import is_adapter, read_adapter
from lego_ray.formats.record import (
    AdapterHeaders,
    AdapterRecord,
    Refused,
    TensorSpan,
)
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.torch_bin import read_spans
from lego_ray.planning.arguments import checked_checkpoints
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.run_names import run_name, says_its_number, step_of
from lego_ray.planning.trainer_runs import Candidate, settle
from lego_ray.sources.beside import (
    HINTS,
    SHARD,
    check_foreign,
    is_foreign,
    notes_on,
    sharded,
    unread,
)
from lego_ray.sources.contents import read_content
from lego_ray.sources.find import (
    LONE_NAMES,
    PEFT_NAMES,
    Found,
    find,
    find_again,
    open_source,
)
from lego_ray.sources.identities import NOTHING, Known, settled, to_read
from lego_ray.storage.base import ByteRange, ObjectInfo, Store
from lego_ray.storage.ranged_file import RangedFile
from lego_ray.storage.uri import Place

# One request brings the header of most adapters and the first sample with it.
FIRST_READ = 2 * SAMPLE_BYTES
# A configuration of a thousand sites by name is about 100 KB.
MAX_CONFIG_BYTES = 10 << 20
MAX_CARD_BYTES = 1 << 20
# The header of 100,000 tensors takes 15 MB, what trainers add a few. Parsed, the worst takes some
# twenty times as much, so those above the second number are parsed one at a time.
MAX_HEADER = 32 << 20
LARGE = 1 << 20
_LARGE = threading.Lock()
# Times an adapter is read that is written meanwhile: once more is enough for one that is replaced, and
# one that is written all the time is not ready.
TRIES = 3
# Small reads that wait for a store, so more than there are cores.
THREADS = 16

# Told how many are done, and of how many.
Counted = Callable[[int, int], None]


def untold(done: int, total: int) -> None:
    """Tells nobody."""


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


def scan_sources(
    sources: Sequence[str | Place],
    *,
    exclude: Sequence[str] = (),
    full_weights: str = "refuse",
    checkpoints: str = "last",
    skip: Iterable[str | Place] = (),
    progress: Counted = untold,
    known: Known = NOTHING,
    again: bool = False,
) -> Scan:
    """Reads the headers of every adapter at or below some places.

    An adapter is read whole, once, only where headers cannot tell which one it is: its file was written
    again since a record of `known`, or two of them have the same headers and samples.

    Args:
        sources: Directories, `s3://` prefixes or `hf://` repositories, or weights files in them.
        exclude: Glob patterns; an adapter is left out if one matches its name, its path below the
            source, or its URI.
        full_weights: The recipe's choice for weights that are not low-rank.
        checkpoints: `last` to take one adapter per training run, its final one or else its last
            checkpoint; `all` to take every checkpoint too. What is a source by itself is always taken.
        skip: Places not to look at, such as the output of the merge, or their normalized URIs.
        progress: Called with the number of adapters read, and of those there are to read.
        known: What records of earlier runs say of adapters.
        again: Whether the same places were scanned before in this run. One that is gone is passed over
            then, because the run goes on without its adapters and names them.

    Raises:
        InvalidOption: If `checkpoints` is neither.
        ObjectNotFound: If a source does not exist.
        StorageError: If a source cannot be read.
    """
    checkpoints = checked_checkpoints(checkpoints)
    mode = cast(FullWeights, full_weights.partition(":")[0])
    skipped = {str(place) for place in skip}
    stores: list[Store] = []
    found: list[tuple[Found, bool]] = []
    refused: list[Refused] = []
    for source in sources:
        store, only = open_source(source)
        stores.append(store)
        for each in _found(store, only, again):
            if each.lies_at(skipped) or each.is_meant(exclude):
                continue
            if refusal := each.refusal():
                refused.append(refusal)
            else:
                found.append((each, _is_named(each, only)))
    cards: dict[str, ModelCard] = {}
    candidates: list[Candidate] = []
    files_of: dict[str, Found] = {}
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        results = threads.map(lambda f: _read(f[0], mode, cards), found)
        for done, ((item, named), result) in enumerate(zip(found, results, strict=True), 1):
            progress(done, len(found))
            if result is not None:
                candidates.append(_candidate(item, named, *result))
                files_of[result[0].uri] = item
        runs = settle(candidates, checkpoints)
        unclear = to_read(runs.adapters, known)
        read = {a.uri: c for a, c in zip(unclear, threads.map(read_content, unclear), strict=True)}
    adapters = _noted(settled(runs.adapters, known, read), files_of)
    inventory = Inventory.of(adapters, (*refused, *runs.refused))
    whole = read.values()
    return Scan(
        inventory=replace(inventory, passed_over=runs.passed_over, doubts=runs.doubts),
        bytes_read=sum(s.bytes_read for s in stores) + sum(each.bytes_read for each in whole),
        requests=sum(s.requests for s in stores) + sum(each.requests for each in whole),
    )


def _found(store: Store, only: str, again: bool) -> Iterator[Found]:
    """What lies under a source; nothing if it is gone and was scanned before."""
    try:
        yield from find(store, only)
    except ObjectNotFound:
        if not again:
            raise


def _is_named(found: Found, only: str) -> bool:
    """Whether it is what its source names: the one file meant, or what the whole directory is."""
    if only or found.folder or not found.is_file:
        return bool(only) or not found.folder
    return found.weights is not None and found.name_of(found.weights) in LONE_NAMES


def _candidate(
    found: Found, named: bool, result: AdapterRecord | Refused, metadata: Mapping[str, str]
) -> Candidate:
    """What was read, with what its path and its header say of a training run."""
    place, name = found.uri, ""
    if found.is_file and found.weights is not None:
        place, name = found.uri_of(found.weights), found.name_of(found.weights)
    below = len(found.root.rstrip("/")) + 1
    if named:  # then the last part of its path counts, which is the source's own
        last = place.removesuffix(f"/{name}") if name in LONE_NAMES else place
        below = min(below, last.rfind("/") + 1)
    return Candidate(
        place=place,
        found=result,
        step=step_of(place, below, is_mlx=found.config is not None and bool(name)),
        named=named,
        of_trainer=found.is_trained_here or says_its_number(metadata, name),
        run_name=run_name(metadata),
    )


def _noted(
    adapters: Iterable[AdapterRecord], files_of: Mapping[str, Found]
) -> Iterator[AdapterRecord]:
    """The adapters, each with notes on what lies beside it and is not merged."""
    adapters = list(adapters)
    in_folder = Counter((id(f.store), f.folder) for f in (files_of[a.uri] for a in adapters))
    for adapter in adapters:
        found = files_of[adapter.uri]
        notes: list[str] = []
        is_alone = not found.is_file or adapter.weights_key in LONE_NAMES
        if is_alone or in_folder[id(found.store), found.folder] == 1:
            notes += notes_on(found.beside, adapter.weights_key, is_alone=is_alone)
        if found.config is not None and not found.is_file:
            notes += unread(found.beside, adapter.weights_key)
        yield replace(adapter, notes=(*adapter.notes, *notes)) if notes else adapter


def _read(
    found: Found, mode: FullWeights, cards: dict[str, ModelCard]
) -> tuple[AdapterRecord | Refused, Mapping[str, str]] | None:
    """Reads one adapter, with its header's metadata; None for what is not one.

    From its listing on again where a file of it changed in between.
    """
    for _ in range(TRIES):
        try:
            return _read_once(found, mode, cards)
        except SourceChanged as error:
            last, again = error, find_again(found)
            if again is None:
                break
            found = again
    return Refused(found.uri, "refused", f"{type(last).__name__}: {last}"), {}


def _read_once(
    found: Found, mode: FullWeights, cards: dict[str, ModelCard]
) -> tuple[AdapterRecord | Refused, Mapping[str, str]] | None:
    try:
        config, weights = _config(found), found.weights
        if weights is None:
            raise _incomplete(found, config or b"")
        if config is None and is_foreign(found.name_of(weights)) and found.is_file:
            check_foreign(
                found.name_of(weights),
                _range(found.store, weights, 0, FIRST_READ),
                found.uri_of(weights),
            )
            return None
        table = _table(found, weights) if config else _lone_table(found, weights)
        if table is None:
            return None
        identity = stand_in(table.metadata) if config is None else config
        card = _card(found, cards)
        headers = AdapterHeaders(
            uri=found.uri,
            weights_key=found.name_of(weights),
            weights=found.uri_of(weights),
            spans=table.spans,
            metadata=table.metadata,
            config=config,
            n_bytes=weights.size,
            version=weights.version,
            revision=found.store.revision,
            adapter_id=adapter_id(
                identity, table.spans, weights.size, *_samples(found, weights, table)
            ),
            base_model=card.base_model,
            license=card.license,
            tags=card.tags,
            config_version=found.config.version if found.config else "",
        )
        record = read_adapter(headers, mode)
        if not layout_named(record.format).has_config:
            record = replace(record, uri=headers.weights)
        return record, table.metadata
    except AdapterRefused as error:
        return Refused(found.uri, "refused", f"{type(error).__name__}: {error}"), {}


def _config(found: Found) -> bytes | None:
    config = found.config
    if config is None:
        return None
    if config.size > MAX_CONFIG_BYTES:
        raise MalformedAdapter(
            found.uri_of(config),
            f"it has {config.size} bytes, more than a configuration can need",
            "Export the adapter again.",
        )
    data = found.store.read(config.key, config.version)
    with _one_at_a_time(len(data)):
        parse_object(data, found.uri_of(config))  # refused here, it is named by its place
    return data


def _incomplete(found: Found, config: bytes) -> AdapterRefused:
    """The error of a configuration without weights; a method refused by name is a better answer."""
    where = str(found.place.join(CONFIG_NAME))
    fields = parse_object(config, where)
    layout = check_layout(fields, (), where)
    layout.module.check_config(fields, where)
    for name in sorted(found.beside):
        if shard := SHARD.fullmatch(name):
            return sharded(shard[1], shard[3], found.uri)
        if is_foreign(name):
            ending = f".{name.rpartition('.')[2].lower()}"
            problem = f"its weights are in {name}, a type of file that is not read"
            return UnsupportedAdapter(found.uri, problem, HINTS[ending])
    return MalformedAdapter(
        found.uri,
        f"there is no {' or '.join(layout.weights_names)} beside its configuration",
        "Finish copying the adapter, or leave it out with --exclude.",
    )


def _card(found: Found, known: dict[str, ModelCard]) -> ModelCard:
    """The directory's model card, read once for all files in it."""
    if found.card is None or found.card.size > MAX_CARD_BYTES:
        return ModelCard()
    uri = found.uri_of(found.card)
    if uri not in known:
        known[uri] = parse_card(found.store.read(found.card.key, found.card.version))
    return known[uri]


@dataclass(frozen=True, slots=True)
class _Table:
    """What a weights file's header says, and the bytes from its start that were read on the way."""

    spans: tuple[TensorSpan, ...]
    metadata: Mapping[str, str]
    first: bytes


def _lone_table(found: Found, weights: ObjectInfo) -> _Table | None:
    """A weights file without a configuration beside it; None for one that is no adapter at all."""
    is_named = found.name_of(weights) in PEFT_NAMES
    try:
        table = _table(found, weights)
    except AdapterRefused:
        # Any tool may leave a damaged file about; one that was to be a LoRA is worth a word.
        if is_named or b"lora" in _range(found.store, weights, 0, FIRST_READ):
            raise
        return None
    names = [span.name for span in table.spans]
    if not is_named and not is_adapter(names, found.uri_of(weights)):
        return None
    if shard := SHARD.fullmatch(found.name_of(weights)):
        raise sharded(shard[1], shard[3], found.uri_of(weights))
    return table


def _table(found: Found, weights: ObjectInfo) -> _Table:
    where = found.uri_of(weights)
    if weights.key.endswith(".bin"):
        file = RangedFile(found.store, weights.key, weights.size, weights.version)
        return _Table(read_spans(cast(BinaryIO, file), where), {}, b"")
    first = _range(found.store, weights, 0, FIRST_READ)
    length = header_length(first[:LENGTH_BYTES], weights.size, where)
    if length > MAX_HEADER:
        problem = f"its header has {length} bytes, more than an adapter's can need"
        raise UnsupportedAdapter(where, problem, "Save it again without its metadata.")
    end = LENGTH_BYTES + length
    with _one_at_a_time(length):
        if end > len(first):
            first += _range(found.store, weights, len(first), end)
        spans, metadata = parse_header(first[LENGTH_BYTES:end], weights.size, where)
    if not spans:
        raise UnsupportedAdapter(where, "it holds no tensors", "Export the adapter again.")
    return _Table(spans, metadata, first)


def _one_at_a_time(n_bytes: int) -> AbstractContextManager[object]:
    """For a block that parses so many bytes of JSON: waits for others that parse as many."""
    return _LARGE if n_bytes > LARGE else nullcontext()


def _samples(found: Found, weights: ObjectInfo, table: _Table) -> tuple[bytes, bytes]:
    """The two windows of tensor bytes that the adapter's id is taken over."""

    def window(start: int, end: int) -> bytes:
        if end <= len(table.first):
            return table.first[start:end]
        return _range(found.store, weights, start, end)

    head, tail = sample_windows(table.spans)
    return window(*head), window(*tail)


def _range(store: Store, info: ObjectInfo, start: int, end: int) -> bytes:
    end = min(end, info.size)
    if end <= start:
        return b""
    return bytes(store.read_ranges(info.key, [ByteRange(start, end)], info.version)[0])
