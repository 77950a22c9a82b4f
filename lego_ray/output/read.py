"""Reads a merge that is published, holding each file against the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from lego_ray.errors import ObjectNotFound, VerificationFailed
from lego_ray.output.damage import AGAIN, is_edited_card
from lego_ray.output.manifest import (
    MANIFEST_KEY,
    listed_files,
    marker_of,
    parse_manifest,
    read_bytes,
)
from lego_ray.storage.base import Store


def read_manifest(store: Store) -> tuple[dict[str, Any], bytes]:
    """Reads the manifest of a merge.

    Returns:
        The manifest, and its bytes.

    Raises:
        ObjectNotFound: If there is none.
        MalformedAdapter: If it is not one, or of another version.
    """
    try:
        data = read_bytes(store)
    except ObjectNotFound as error:
        raise ObjectNotFound(
            store.uri,
            f"there is no {MANIFEST_KEY}, so this is not an adapter that lego-ray published",
            "Give the directory that merge wrote.",
        ) from error
    return parse_manifest(data, store.uri), data


def checked_files(store: Store, manifest: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yields each file that the manifest lists, with the bytes that it says.

    The model card is for people to edit, so it is given as it is; `is_edited_card` tells.

    Raises:
        VerificationFailed: If a file is not there, or is another one.
        MalformedAdapter: If the list is none, or lacks the file that is written last.
    """
    for key, sha256 in sorted(listed_files(manifest, store.uri).items()):
        try:
            data = store.read(key)
        except ObjectNotFound as error:
            raise VerificationFailed(
                f"{store.uri}/{key}",
                "the manifest lists this file and it is not there",
                "Publishing was cut short: run the same merge again."
                if key == marker_of(manifest)
                else "Run the same merge again: that writes it again.",
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha256 and not is_edited_card(manifest, key, data):
            raise VerificationFailed(
                f"{store.uri}/{key}",
                f"its sha256 is {found}, the manifest says {sha256}",
                f"The file was changed or damaged after it was published. {AGAIN}",
            )
        yield key, data
