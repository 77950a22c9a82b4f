"""Readings as a file, so that the next run does not read again what did not change.

Compressed lines of JSON: what the file is, and the readings by the digest of their marks. The sites of
adapters that have the same ones are written once.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lego_ray.errors import LegoRayError
from lego_ray.formats import differences, record, site_factors
from lego_ray.formats.record import AdapterRecord, Refused
from lego_ray.formats.site_factors import SiteFactors
from lego_ray.formats.strict_json import parse_object

# Changes whenever a file of another release must not be read.
_VERSION = 1
# What the headers of 100,000 adapters take, when most share their sites.
LARGEST = 256 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one reading.

    Attributes:
        result: The adapter, or its refusal; None for what is not an adapter at all.
        metadata: What its weights file's header says beside the tensors; None if it was not read.
    """

    result: AdapterRecord | Refused | None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Body:
    """The readings; a record has the number of its sites in place of them."""

    __pydantic_config__ = ConfigDict(defer_build=True)

    sites: list[tuple[SiteFactors, ...]] = field(default_factory=list)
    readings: dict[str, tuple[Kept, int]] = field(default_factory=dict)


class UnusableReadings(Exception):
    """A file of readings is damaged, or of other settings or another release."""


def encoded(readings: Mapping[str, Kept], settings: str) -> bytes:
    """Readings as the bytes of a file.

    Args:
        readings: The readings, by the digest of their marks.
        settings: What they depend on beside the files.

    Raises:
        UnusableReadings: If they are too many for a file, or hold what JSON cannot.
    """
    body = _Body()
    numbers: dict[tuple[SiteFactors, ...], int] = {}
    seen: dict[int, int] = {}  # most are the same object, which is quicker to find
    for mark, kept in sorted(readings.items()):
        result, number = kept.result, -1
        if isinstance(result, AdapterRecord):
            sites = result.sites
            if id(sites) not in seen:
                seen[id(sites)] = numbers.setdefault(sites, len(numbers))
            number = seen[id(sites)]
            result = replace(result, sites=())
        body.readings[mark] = (Kept(result, kept.metadata), number)
    body.sites.extend(numbers)
    try:
        text = _form().dump_json(body)
    except ValueError as error:
        raise UnusableReadings(str(error)) from error
    if len(text) > LARGEST:
        raise UnusableReadings(f"they take {len(text)} bytes, more than {LARGEST}")
    about = {"version": _VERSION, "settings": settings, "sha256": hashlib.sha256(text).hexdigest()}
    return zlib.compress(json.dumps(about).encode() + b"\n" + text)


def decoded(data: bytes, settings: str) -> dict[str, Kept]:
    """The readings of a file.

    Args:
        data: Its bytes.
        settings: What readings depend on now.

    Raises:
        UnusableReadings: If it is damaged, or of other settings or another release.
    """
    try:
        about, _, text = zlib.decompressobj().decompress(data, LARGEST + 1024).partition(b"\n")
        fields = parse_object(about, "it")
        if (fields.get("version"), fields.get("settings")) != (_VERSION, settings):
            raise UnusableReadings("it is of another release or of other settings")
        if fields.get("sha256") != hashlib.sha256(text).hexdigest():
            raise UnusableReadings("it is damaged")
        body = _form().validate_json(text)
        return {mark: _with_sites(kept, n, body) for mark, (kept, n) in body.readings.items()}
    except (zlib.error, LegoRayError, ValidationError, IndexError) as error:
        raise UnusableReadings(f"it is damaged ({type(error).__name__})") from error


def _with_sites(kept: Kept, number: int, body: _Body) -> Kept:
    if not isinstance(kept.result, AdapterRecord):
        return kept
    return Kept(replace(kept.result, sites=body.sites[number]), kept.metadata)


@cache
def _form() -> TypeAdapter[_Body]:
    # The record's classes name each other where pydantic does not look.
    names = {**vars(site_factors), **vars(record), "Difference": differences.Difference}
    form = TypeAdapter(_Body)
    form.rebuild(_types_namespace=names)
    return form
