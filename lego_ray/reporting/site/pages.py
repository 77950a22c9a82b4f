"""Files of a site, named by their content: scripts that hand their data to the page.

A page opened from disk may load scripts and may not fetch files, so data travel as scripts. A name holds
the sha256 of the file's bytes: a file that did not change is not written again, and one that is deleted
later is known to be the site's own.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lego_ray.output.card.markdown import LONGEST, plain

# Folder of the data, and of what shows them.
DATA, ASSETS = "data/", "assets/"
# The function that a script calls with its name and its data.
CALL = "legoRayPage"
# Digits of the sha256 in a name.
DIGITS = 20
# Rows of a list in one file. A view shows fewer at once.
ROWS = 500
# What a file of details holds about: counted in rows of their tables.
DETAILS = 2000
_KEY = re.compile(r"[0-9a-f]{32,}")
_KEY_DIGITS = 32
_OWN = re.compile(rf"(?:{DATA}|{ASSETS})[a-z-]+(?:-\d+)?\.([0-9a-f]{{{DIGITS}}})\.(?:js|css|txt)")
_FNV_START, _FNV_PRIME = 2166136261, 16777619


@dataclass(frozen=True, slots=True)
class File:
    """One file of a site.

    Attributes:
        key: Where, below the site's root.
        data: Its bytes.
    """

    key: str
    data: bytes


def named(folder: str, name: str, ending: str, data: bytes) -> File:
    """A file whose name holds its hash.

    Args:
        folder: `DATA` or `ASSETS`.
        name: What it is.
        ending: `js`, `css` or `txt`.
        data: Its bytes.
    """
    return File(f"{folder}{name}.{_digest(data)}.{ending}", data)


def is_own_name(key: str) -> bool:
    """Whether a key is one that a site may have written."""
    return _OWN.fullmatch(key) is not None


def is_own(key: str, data: bytes) -> bool:
    """Whether a site wrote these bytes under this key: then the name holds their hash."""
    found = _OWN.fullmatch(key)
    return found is not None and found[1] == _digest(data)


def text(data: Any) -> str:
    """JSON as the site has it: every character beyond ASCII is escaped, and `<` too.

    Args:
        data: What JSON knows.
    """
    found = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return found.replace("<", "\\u003c")


def page(name: str, data: str) -> File:
    """A script with data.

    Objects in them have keys of lego-ray's own words only, so no word of others, such as `__proto__`, is
    a key.

    Args:
        name: Of the page, such as `adapters-0`.
        data: As `text` gives it.
    """
    return named(DATA, name, "js", f"{CALL}({text(name)},{data});\n".encode("ascii"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def key_of(identity: str) -> str:
    """What the address of a page says of an adapter, a merge or a grouping.

    Args:
        identity: Its hex hash, of which the first digits are taken; any other text is hashed.
    """
    if _KEY.fullmatch(identity):
        return identity[:_KEY_DIGITS]
    return "u" + hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:_KEY_DIGITS]


def bucket_of(key: str, n_buckets: int) -> int:
    """The file of details that holds a key, by the FNV-1a hash; the browser computes the same.

    Args:
        key: As `key_of` gives it.
        n_buckets: How many there are.
    """
    found = _FNV_START
    for byte in key.encode("ascii"):
        found = (found ^ byte) * _FNV_PRIME % 2**32
    return found % n_buckets


@dataclass(frozen=True, slots=True)
class Detail:
    """What is known of one thing.

    Attributes:
        key: As `key_of` gives it.
        rows: Of how many rows it is made, which is how large it is.
        data: As `text` gives it.
    """

    key: str
    rows: int
    data: str


def details(name: str, entries: Sequence[Detail]) -> Iterator[File]:
    """Yields files of details, each entry in the one of its key.

    There is a power of two of them, with about `DETAILS` rows in each.

    Args:
        name: Of the files; their numbers are added.
        entries: What is known, in any order.
    """
    n_buckets = 1
    while n_buckets * DETAILS < sum(entry.rows for entry in entries):
        n_buckets *= 2
    buckets: list[list[str]] = [[] for _ in range(n_buckets)]
    for entry in sorted(entries, key=lambda entry: entry.key):
        buckets[bucket_of(entry.key, n_buckets)].append(entry.data)
    for number, found in enumerate(buckets):
        yield page(f"{name}-{number}", f"[{','.join(found)}]")


def lists(name: str, rows: Sequence[str]) -> Iterator[File]:
    """Yields files of a list, `ROWS` rows in each.

    Args:
        name: Of the files; their numbers are added.
        rows: The rows in order, as `text` gives them.
    """
    for start in range(0, len(rows), ROWS):
        found = ",".join(rows[start : start + ROWS])
        yield page(f"{name}-{start // ROWS}", f"[{found}]")


def name_of(uri: str) -> str:
    """The last part of a URI, without a commit."""
    return str(shown(uri.rstrip("/").rsplit("/", 1)[-1].partition("@")[0] or uri))


def shown(value: Any) -> Any:
    """A value as the site has it: text with what cannot be seen made visible, on one line.

    Numbers that JSON lacks become None, times ISO 8601 to the second.
    """
    if isinstance(value, str):
        if len(value) <= LONGEST and value.isascii() and value.isprintable():
            return value
        return plain(value)
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value


def pairs(found: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> list[list[Any]]:
    """A map as sorted pairs of texts; Arrow gives it as pairs or as a mapping."""
    return sorted([shown(str(key)), shown(str(value))] for key, value in dict(found or {}).items())
