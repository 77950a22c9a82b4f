"""Reads the headers of one adapter, and says what it is or why it is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lego_ray.errors import (
    AccessDenied,
    AdapterRefused,
    MalformedAdapter,
    SourceChanged,
    UnsupportedAdapter,
    redacted,
)
from lego_ray.formats.base_model import base_model_in
from lego_ray.formats.hub_tags import MAX_SIDECAR_BYTES, parse_sidecar, tags_in_header
from lego_ray.formats.identity import id_of_table, stand_in
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.lone import FullWeights
from lego_ray.formats.model_card import ModelCard, parse_card
from lego_ray.formats.peft_base import changing_init
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.reading import is_adapter, read_adapter
from lego_ray.formats.record import AdapterHeaders, AdapterRecord, Refused
from lego_ray.formats.safetensors_header import is_lfs_pointer
from lego_ray.formats.strict_json import parse_object
from lego_ray.sources.beside import SHARD, check_foreign, hint_for, is_foreign, sharded
from lego_ray.sources.find import PEFT_NAMES, Found, find_again, refused_folder
from lego_ray.sources.shared_headers import SharedHeaders
from lego_ray.sources.weights_table import (
    FIRST_READ,
    WeightsTable,
    one_at_a_time,
    read_range,
    read_samples,
    read_table,
)
from lego_ray.storage.base import ObjectInfo

# A configuration of a thousand sites by name is about 100 KB.
MAX_CONFIG_BYTES = 10 << 20
MAX_CARD_BYTES = 1 << 20
# Times an adapter is read that is written meanwhile: once more is enough for one that is replaced, and
# one that is written all the time is not ready.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one place, and what it is.

    Attributes:
        found: The place.
        result: The adapter, or its refusal; None for what is not an adapter at all.
        why: Why it is not one; empty otherwise.
        config: Bytes of the configuration beside it; None if there is none, or it was refused unread.
        table: The header of its weights file; None if it could not be read.
        headers: All that its layout's reader was given; None if reading stopped before.
        is_lasting: Whether it is the same for as long as no file is written: a right to read can be
            given meanwhile.
    """

    found: Found
    result: AdapterRecord | Refused | None
    why: str = ""
    config: bytes | None = None
    table: WeightsTable | None = None
    headers: AdapterHeaders | None = None
    is_lasting: bool = True

    @property
    def fields(self) -> Mapping[str, object]:
        """The configuration's fields; none if there is none, or it was refused unread."""
        return {} if self.config is None else parse_object(self.config, self.found.uri)

    @property
    def base_model(self) -> str:
        """Name of the base model, or empty."""
        named = self.fields.get("base_model_name_or_path") or self.fields.get("model")
        if isinstance(named, str):
            return redacted(named)
        if self.table is not None and (name := base_model_in(self.table.metadata)):
            return redacted(name)
        return self.headers.base_model if self.headers else ""

    @property
    def tags(self) -> Mapping[str, str]:
        """From its header, a hub's file beside it, its model card."""
        found = self.headers.tags if self.headers else {}
        return {key: redacted(value) for key, value in found.items()}


def read_found(
    found: Found,
    mode: FullWeights,
    shared: SharedHeaders,
    *,
    with_base: bool = False,
    initial: Found | None = None,
) -> Reading:
    """Reads the headers of one adapter, from its listing on again where a file of it changed since.

    Args:
        found: Where it is.
        mode: What to do with weights that are not low-rank.
        shared: The headers and model cards read so far; this adapter's are added.
        with_base: As for `formats.reading.read_adapter`.
        initial: Where the adapter is as it was saved before training; None if it is nowhere.

    Raises:
        StorageError: If it cannot be read.
    """
    for _ in range(TRIES):
        try:
            return _read_once(found, mode, shared, with_base, initial)
        except AccessDenied as error:
            # Elsewhere it is the credentials that are denied, and those are of the whole source.
            if not found.place.is_local:
                raise
            return Reading(found, _closed(found, error), is_lasting=False)
        except SourceChanged as error:
            last, again = error, find_again(found)
            if again is None:
                break
            found = again
    return Reading(found, _refused(found, last), is_lasting=False)


def _read_once(
    found: Found,
    mode: FullWeights,
    shared: SharedHeaders,
    with_base: bool,
    initial: Found | None,
) -> Reading:
    read = Reading(found, None)
    try:
        config, weights = _config(found), found.weights
        read = replace(read, config=config)
        if weights is None:
            raise _incomplete(found, config or b"")
        where = found.uri_of(weights)
        if config is None and is_foreign(found.name_of(weights)) and found.is_file:
            start = read_range(found.store, weights, 0, FIRST_READ)
            check_foreign(found.name_of(weights), start, where)
            return replace(read, why="no name in its first bytes is one of a LoRA's tensors")
        if config is None:
            table = _lone_table(found, weights, shared)
            if isinstance(table, str):
                return replace(read, why=table)
        else:
            table = read_table(found, weights, shared)
        read = replace(read, table=table)
        if config is None and (why := _why_none(found, weights, table)):
            return replace(read, why=why)
        headers = _headers(found, weights, config, table, shared)
        read = replace(read, headers=headers)
        before = _before_training(initial, config, shared)
        if before is None:
            record = shared.record(headers, mode, with_base=with_base)
        else:
            record = read_adapter(headers, mode, with_base=with_base, initial=before)
        if config is None:
            record = replace(record, uri=headers.weights)
        return replace(read, result=record)
    except AdapterRefused as error:
        return replace(read, result=_told(_refused(found, error), read))


def _before_training(
    initial: Found | None, config: bytes | None, shared: SharedHeaders
) -> AdapterRecord | None:
    """The adapter as it was saved before training, if what it was then counts."""
    if initial is None or initial.weights is None or config is None:
        return None
    if not changing_init(parse_object(config, initial.uri)):
        return None
    own = _config(initial)
    table = read_table(initial, initial.weights, shared)
    headers = _headers(initial, initial.weights, own, table, shared)
    # Its factors are meant as they are, whether or not it says how they were made.
    fields = {**parse_object(own or b"", initial.uri), "init_lora_weights": True}
    plain = replace(headers, config=json.dumps(fields).encode())
    return read_adapter(plain, "drop", with_base=True)


def _closed(found: Found, error: AccessDenied) -> Refused:
    return replace(refused_folder(found.store, "", error), uri=found.uri)


def _refused(found: Found, error: AdapterRefused | SourceChanged) -> Refused:
    return Refused(found.uri, "refused", f"{type(error).__name__}: {error}")


def _told(refused: Refused, read: Reading) -> Refused:
    """A refusal with what was read of the adapter, by which people look for it."""
    headers, weights = read.headers, read.found.weights
    return replace(
        refused,
        base_model=read.base_model,
        n_bytes=weights.size if weights is not None else 0,
        license=redacted(headers.license) if headers else "",
        tags=read.tags,
    )


def _headers(
    found: Found,
    weights: ObjectInfo,
    config: bytes | None,
    table: WeightsTable,
    shared: SharedHeaders,
) -> AdapterHeaders:
    identity = stand_in(table.metadata) if config is None else config
    card = _card(found, shared.cards)
    of_header = tags_in_header(table.metadata)
    return AdapterHeaders(
        uri=found.uri,
        weights_key=found.name_of(weights),
        weights=found.uri_of(weights),
        spans=table.spans,
        metadata=table.metadata,
        config=config,
        n_bytes=weights.size,
        version=weights.version,
        revision=found.store.revision,
        adapter_id=id_of_table(
            shared.identity(identity, table.spans, weights.size),
            *read_samples(found, weights, table),
        ),
        base_model=card.base_model,
        license=card.license or of_header.license,
        tags={**of_header.tags, **_sidecar(found).tags, **card.tags},
        config_version=found.config.version if found.config else "",
        changed_at=(weights.changed_at, found.config.changed_at if found.config else ""),
    )


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
    with one_at_a_time(len(data)):
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
            problem = f"its weights are in {name}, a type of file that is not read"
            return UnsupportedAdapter(found.uri, problem, hint_for(name))
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


def _sidecar(found: Found) -> ModelCard:
    """What a hub's tool wrote beside the weights file."""
    info = found.sidecar
    if info is None or info.size > MAX_SIDECAR_BYTES:
        return ModelCard()
    return parse_sidecar(found.store.read(info.key, info.version))


def _lone_table(found: Found, weights: ObjectInfo, shared: SharedHeaders) -> WeightsTable | str:
    """The header of a weights file without a configuration beside it; or why it is not an adapter."""
    try:
        return read_table(found, weights, shared)
    except AdapterRefused as error:
        # Any tool may leave a damaged file about; one that was or may be a LoRA is worth a word.
        start = read_range(found.store, weights, 0, FIRST_READ)
        is_pointer = is_lfs_pointer(start, weights.size)
        if is_pointer or found.name_of(weights) in PEFT_NAMES or b"lora" in start:
            raise
        return error.problem


def _why_none(found: Found, weights: ObjectInfo, table: WeightsTable) -> str:
    """Why a file without a configuration beside it is not an adapter; empty if it is one.

    Raises:
        UnsupportedAdapter: If it is one of a kind that is refused by its tensors' names.
    """
    names = [span.name for span in table.spans]
    name, where = found.name_of(weights), found.uri_of(weights)
    if name not in PEFT_NAMES and not is_adapter(names, where):
        return f"its tensors are not a LoRA's, such as {names[0]}"
    if shard := SHARD.fullmatch(name):
        raise sharded(shard[1], shard[3], where)
    return ""
