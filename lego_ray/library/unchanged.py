"""What a refresh found when there was nothing to do, for the next one: as long as nothing moves.

<output>/.lego-ray/unchanged/<digest>.json    the record, by the digest of the state it was found at

A file that is damaged, of another state or of another release is left alone and replaced; so that a
refresh which cannot use it does what it would do without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from logging import WARNING
from typing import Any, Literal

from lego_ray import journal
from lego_ray.errors import AlreadyExists, LegoRayError, ObjectNotFound, SourceChanged
from lego_ray.formats.forms import Form, Table, read_as, sentence_of
from lego_ray.formats.strict_json import parse_object
from lego_ray.library.record import RefreshRecord, VersionRecord
from lego_ray.library.state import State
from lego_ray.merging.record import seconds_since
from lego_ray.output.checkpoints.run_folder import FOLDER, UNCHANGED_FOLDER
from lego_ray.storage.base import Store
from lego_ray.storage.links import lies_inside

# The record of a hundred merges of ten thousand adapters each.
_LARGEST = 256 << 20
_OURS = re.compile(rf"{re.escape(UNCHANGED_FOLDER)}[0-9a-f]{{64}}\.json")


class _Kept(Form):
    """A kept file."""

    version: Literal[1]
    state: str
    record_sha256: str
    record: Table[Any]


class _Unusable(Exception):
    """A kept file cannot be used; it never leaves this file."""


def recall(store: Store, state: State, started: float) -> RefreshRecord | None:
    """The record that a refresh kept at this state; None if there is none that can be used.

    Args:
        store: The library's output.
        state: The state now.
        started: When the call began, by `time.perf_counter`.
    """
    info = state.kept.get(_key(state))
    if info is None:
        return None
    try:
        if info.size > _LARGEST:
            raise _Unusable(f"it has {info.size} bytes")
        record = _record(store.read(info.key, info.version), state)
    except (SourceChanged, ObjectNotFound):  # another refresh has just tidied up
        return None
    except (_Unusable, LegoRayError) as error:
        journal.note("kept record not used", "", WARNING, file=info.key, reason=str(error))
        return None
    seconds = seconds_since(started)
    merges = tuple(replace(merge, seconds=seconds) for merge in record.merges)
    return replace(record, merges=merges, seconds=seconds, bytes_read=0)


def keep(store: Store, state: State, record: RefreshRecord) -> None:
    """Keeps a record at a state, in place of those of earlier states.

    That it cannot be written is noted, and no error: the library is up to date.

    Args:
        store: The library's output.
        state: The state at which, from before the look to after it, the record was found.
        record: The record.
    """
    key = _key(state)
    try:
        if not lies_inside(store, FOLDER.rstrip("/")):
            return  # what is kept is deleted later, and must not be where a link leads
        text = _encoded(record)
        about = {"version": 1, "state": state.digest, "record_sha256": _sha256(text)}
        data = f'{json.dumps(about)[:-1]}, "record": {text}}}\n'
        for old in state.kept:
            if _OURS.fullmatch(old):
                store.delete(old)
        with contextlib.suppress(AlreadyExists):  # another refresh, at the same state
            store.create(key, data.encode())
    except (LegoRayError, ValueError) as error:
        journal.note("record not kept", "", file=key, reason=str(error))


def _key(state: State) -> str:
    return f"{UNCHANGED_FOLDER}{state.digest}.json"


def _encoded(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _record(data: bytes, state: State) -> RefreshRecord:
    """Reads a kept file.

    Raises:
        _Unusable: If it is damaged, or not of this state.
        MalformedAdapter: If it is not JSON.
    """
    kept = read_as(_Kept, parse_object(data, "it"), lambda f: _Unusable(sentence_of(f)))
    if kept.state != state.digest or kept.record_sha256 != _sha256(_encoded(kept.record)):
        raise _Unusable("it is damaged, or of another state")
    try:
        merges = [VersionRecord(**_lists_as_tuples(each)) for each in kept.record["merges"]]
        return RefreshRecord(**{**_lists_as_tuples(kept.record), "merges": tuple(merges)})
    except (TypeError, KeyError) as error:
        raise _Unusable(f"it lacks or has fields that a record has not ({error})") from error


def _lists_as_tuples(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
