"""Whether a base model is the one that a bake was made from, by full hashes of its files.

Headers and samples tell most base models from each other, but a model of which only some layers were
trained can have those of the model it was trained from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from lego_ray.errors import OutputExists, SourceChanged
from lego_ray.sources.base_model import BaseModel
from lego_ray.storage.base import ByteRange
from lego_ray.storage.versions import changed, present

HASHES = "sha256"
MARKS = "marks"

_PIECE = 16 << 20
_HINT = "Run the same command again when nothing writes to the base model."


def base_marks(base: BaseModel) -> dict[str, str]:
    """By key of each file; where this is the one of an earlier run, the file was not written since."""
    return {key: f"{version} {at}".strip() for key, version, at in _files(base)}


def confirm_base(base: BaseModel) -> None:
    """Passes a base model whose files are those that were read.

    Raises:
        SourceChanged: If a file was replaced, rewritten or deleted.
        StorageError: If its store cannot be asked.
    """
    if base.store.revision:  # a commit cannot change
        return
    for key, version, changed_at in _files(base):
        where = f"{base.folder}/{key}"
        try:
            with present(where, version):
                found = base.store.stat(key)
            if found.version != version or found.changed_at != changed_at:
                raise changed(where)
        except SourceChanged as error:
            raise SourceChanged(error.where, error.problem, _HINT) from error


def check_same_base(base: BaseModel, manifest: Mapping[str, Any], output: str) -> None:
    """Passes a base model with the content that a complete bake was made from.

    Reads nothing if the store says that no file was written since.

    Args:
        base: The base model.
        manifest: The bake's; one of an earlier release, without full hashes, is passed as it is.
        output: Where the bake is, for the error.

    Raises:
        OutputExists: If it was made from a base model with other content.
        SourceChanged: If a file changes meanwhile.
    """
    told = manifest.get("base", {})
    hashes, marks = told.get(HASHES), told.get(MARKS, {})
    if not isinstance(hashes, Mapping) or not isinstance(marks, Mapping):
        return
    now = base_marks(base)
    for key, version, _ in _files(base):
        if key not in hashes or marks.get(key) == now[key]:
            continue
        if hash_of(partial(_pieces, base, key, version)) != hashes[key]:
            raise OutputExists(
                output,
                f"it was baked from a base model with another {key}",
                "Choose another --output, or delete that one first.",
            )


def hash_of(parts: Callable[[], Iterator[bytes]]) -> str:
    """Hex sha256 over parts."""
    digest = hashlib.sha256()
    for part in parts():
        digest.update(part)
    return digest.hexdigest()


def _files(base: BaseModel) -> Iterator[tuple[str, str, str]]:
    """Key, version and `changed_at` of each file that a bake reads."""
    for component in base.components:
        for file in component.files:
            yield file.key, file.version, file.changed_at
        if component.listing is not None:
            info = component.listing
            yield info.key, info.version, info.changed_at
    for info in base.others:
        yield info.key, info.version, info.changed_at


def _pieces(base: BaseModel, key: str, version: str) -> Iterator[bytes]:
    size = base.store.stat(key).size
    for start in range(0, size, _PIECE):
        part = ByteRange(start, min(size, start + _PIECE))
        yield bytes(base.store.read_ranges(key, [part], version)[0])
