"""Whether a base model is the one that a bake was made from, by full hashes of its files.

Headers and samples tell most base models from each other, but a model of which only some layers were
trained can have those of the model it was trained from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lego_ray.errors import OutputExists, SourceChanged
from lego_ray.sources.base_model import BaseFile, BaseModel
from lego_ray.storage.base import ByteRange, ObjectInfo, Store
from lego_ray.storage.versions import check_unchanged

if TYPE_CHECKING:
    from hashlib import _Hash

File = BaseFile | ObjectInfo

HASHES = "sha256"
MARKS = "marks"

_PIECE = 16 << 20
_HINT = "Run the same command again when nothing writes to the base model."


def base_marks(base: BaseModel) -> dict[str, str]:
    """By key of each file; where this is the one of an earlier run, the file was not written since."""
    return {file.key: f"{file.version} {file.changed_at}".strip() for file in _files(base)}


def confirm_base(base: BaseModel) -> None:
    """Passes a base model whose files are those that were read.

    Raises:
        SourceChanged: If a file was replaced, rewritten or deleted.
        StorageError: If its store cannot be asked.
    """
    if base.store.revision:  # a commit cannot change
        return
    for file in _files(base):
        where = f"{base.folder}/{file.key}"
        try:
            check_unchanged(base.store, file.key, where, file.version, file.changed_at)
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
    for file in _files(base):
        if file.key not in hashes or marks.get(file.key) == now[file.key]:
            continue
        if hash_of(partial(copied, base.store, file)) != hashes[file.key]:
            raise OutputExists(
                output,
                f"it was baked from a base model with another {file.key}",
                "Choose another --output, or delete that one first.",
            )


def hash_of(parts: Callable[[], Iterator[bytes]]) -> str:
    """Hex sha256 over parts."""
    digest = hashlib.sha256()
    for _ in through(digest, parts()):
        pass
    return digest.hexdigest()


def _files(base: BaseModel) -> Iterator[File]:
    """The files that a bake reads."""
    for component in base.components:
        yield from component.files
        if component.listing is not None:
            yield component.listing
    yield from base.others


def copied(store: Store, file: File) -> Iterator[bytes]:
    """The bytes of a file as it was listed, in pieces.

    Args:
        store: Its store.
        file: The file.

    Raises:
        SourceChanged: If it is another one now.
    """
    for start in range(0, file.size, _PIECE):
        part = ByteRange(start, min(file.size, start + _PIECE))
        yield bytes(store.read_ranges(file.key, [part], file.version)[0])


def through(digest: _Hash, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Parts as they are, which a hash is given as they pass.

    Args:
        digest: The hash.
        parts: The parts.
    """
    for part in parts:
        digest.update(part)
        yield part
