"""Writes a merged adapter where it was asked for: create-only, the file that makes it one last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from lego_ray.errors import AlreadyExists, ObjectNotFound, OutputExists
from lego_ray.execution.publishing.manifest import (
    MANIFEST_KEY,
    marker_of,
    parse_manifest,
    read_bytes,
)
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.storage.base import Store


def published_manifest(
    store: Store, digest: str, marker: str, *, option: str = "--output"
) -> dict[str, Any] | None:
    """The manifest of a merge by this plan that is already published, or None if the way is free.

    Args:
        store: The output.
        digest: The plan as it was asked for.
        marker: Name of the file that the plan writes last.
        option: What the output was given by, for errors.

    Raises:
        OutputExists: If something else is there.
    """
    keys = {info.key for info in store.list()}
    if MANIFEST_KEY not in keys:
        if marker in keys or CONFIG_NAME in keys:
            raise OutputExists(
                store.uri,
                "it holds an adapter that lego-ray did not write",
                f"Choose another {option}; outputs are never overwritten.",
            )
        return None
    manifest = parse_manifest(read_bytes(store), store.uri)
    if digest not in (manifest["merge_id"], manifest.get("requested_plan")):
        raise OutputExists(
            store.uri,
            f"it holds the merge of another plan, {manifest['merge_id'][:12]}, and this one is "
            f"{digest[:12]}: the options or the adapters differ",
            f"Choose another {option}, or delete that one first.",
        )
    return manifest if marker_of(manifest) in keys else None


def publish(
    store: Store, files: Mapping[str, bytes], marker: str, *, option: str = "--output"
) -> bool:
    """Writes an adapter's files, the one that makes it an adapter last.

    The manifest comes first: from then on the output says whose it is, and which bytes belong to it.

    A file that another run of the same plan wrote, before or at the same time, is taken as it is if
    it has the same bytes.

    Args:
        store: The output.
        files: Bytes by key.
        marker: The one to write last.
        option: What the output was given by, for errors.

    Returns:
        Whether this call wrote that one, which of any number of runs only one does.

    Raises:
        OutputExists: If a file is there with other bytes.
    """
    mine = False
    for key in sorted(files, key=lambda k: (k == marker, k != MANIFEST_KEY, k)):
        try:
            store.create(key, files[key])
            mine = key == marker
        except AlreadyExists as error:
            if _sha256(store, key) != hashlib.sha256(files[key]).hexdigest():
                raise OutputExists(
                    store.uri,
                    f"{key} is there already, with other bytes",
                    f"Choose another {option}, or delete that one first.",
                ) from error
    return mine


def _sha256(store: Store, key: str) -> str:
    try:
        return hashlib.sha256(store.read(key)).hexdigest()
    except ObjectNotFound:  # deleted since: say so rather than overwrite
        return ""
