"""Whole files of web sites that send no parts of them, kept here under the hash of their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from lego_ray.storage.file_errors import disk_errors

# Copies whose hash this process has looked at.
_CHECKED: set[str] = set()
_STEP = 1 << 20


def cached(address: str, version: str) -> Path | None:
    """The copy of a version of a file, or None; one whose bytes are not those of its name is deleted.

    Args:
        address: The file's.
        version: As `WebStore.stat` gives it.
    """
    for path in sorted(_folder().glob(f"{_start(address, version)}-*")):
        if str(path) in _CHECKED:
            return path
        if _hash_of(path) == path.name.rpartition("-")[2]:
            _CHECKED.add(str(path))
            return path
        path.unlink(missing_ok=True)
    return None


def keep(address: str, version: str, parts: Iterator[bytes]) -> tuple[Path, str]:
    """Keeps a file; nobody sees part of it.

    Args:
        address: The file's.
        version: Its version; empty where the server gives none, which makes it the hash of the bytes.
        parts: Its bytes.

    Returns:
        The copy, and the version.
    """
    folder = _folder()
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        making = folder / f"making-{secrets.token_hex(8)}"
        try:
            digest = hashlib.sha256()
            with making.open("wb") as file:
                for part in parts:
                    digest.update(part)
                    file.write(part)
            version = version or f"sha256-{digest.hexdigest()}"
            path = folder / f"{_start(address, version)}-{digest.hexdigest()}"
            making.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                making.unlink()
    _CHECKED.add(str(path))
    return path, version


def _folder() -> Path:
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(above).expanduser() / "lego-ray" / "web"


def _start(address: str, version: str) -> str:
    names = (hashlib.sha256(each.encode()).hexdigest()[:24] for each in (address, version))
    return "-".join(names)


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_STEP):
            digest.update(part)
    return digest.hexdigest()
