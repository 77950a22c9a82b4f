"""How far a bake is, by what its output holds.

<output>/.lego-ray/bake.json      which bake the output is being made by; deleted at the end
<output>/lego_ray_bake.json       what went in, and the hashes of what came out; last but one
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from lego_ray.baking.base_content import MARKS
from lego_ray.errors import AlreadyExists, ObjectNotFound, OutputExists
from lego_ray.output.checkpoints.run_folder import FOLDER, check_folder
from lego_ray.output.damage import damaged_files
from lego_ray.output.write import listed_output
from lego_ray.storage.base import ObjectInfo, Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.remains import is_probe, is_temporary

MANIFEST = "lego_ray_bake.json"
BAKE_VERSION = 1
_STARTED = f"{FOLDER}bake.json"
_LARGEST = 64 << 20


def finished(store: Store, bake_id: str, marker: str) -> dict[str, Any] | None:
    """The manifest of this bake if it is complete; None if the way is free, or it was begun.

    Raises:
        OutputExists: If something else is there.
    """
    check_folder(store)
    there = listed_output(store)
    # Apart from what a run leaves that was killed as it looked at the store, or wrote a file.
    keys = {key for key in there if not (is_probe(key) or is_temporary(key))}
    if not keys:
        return None
    for key in (MANIFEST, _STARTED):
        if key in keys:
            try:
                found = json.loads(read_at_most(store, key, _LARGEST))
                if found["bake_id"] == bake_id:
                    whole = key == MANIFEST and marker in keys and _is_whole(store, found, there)
                    return dict(found) if whole else None
            except (ValueError, KeyError, TypeError):
                pass
            raise OutputExists(
                store.uri,
                "it holds another bake, whole or unfinished: of another adapter, base model or type",
                "Choose another --output, or delete that one first.",
            )
    raise OutputExists(
        store.uri,
        f"it holds other files, such as {min(keys)}",
        "Choose an empty --output; outputs are never overwritten.",
    )


def read_manifest(store: Store) -> Mapping[str, Any] | None:
    """The manifest of this bake that a run wrote which was cut short after it; None if there is none."""
    try:
        return dict(json.loads(read_at_most(store, MANIFEST, _LARGEST)))
    except (ObjectNotFound, ValueError, TypeError):
        return None


def but_for_marks(manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a manifest says without what copies of the same base model have otherwise."""
    if manifest is None:
        return None
    base = {k: v for k, v in manifest.get("base", {}).items() if k != MARKS}
    return {**manifest, "base": base}


def _is_whole(store: Store, manifest: Mapping[str, Any], there: Mapping[str, ObjectInfo]) -> bool:
    """Whether all files of a bake are there; those that are missing are written again.

    Raises:
        OutputExists: If one has another size than it must.
    """
    damaged = damaged_files(manifest, there)
    for each in damaged:
        if not each.is_missing:
            again = "Delete it and run the same command again: that writes it again."
            raise OutputExists(f"{store.uri}/{each.key}", f"{each.problem}: it is damaged", again)
    return not damaged


def start(store: Store, bake_id: str) -> None:
    """Leaves the mark of an unfinished bake.

    Raises:
        OutputExists: If another bake has begun there.
    """
    data = (json.dumps({"bake_version": BAKE_VERSION, "bake_id": bake_id}) + "\n").encode()
    try:
        store.create(_STARTED, data)
    except AlreadyExists:
        if store.read(_STARTED) != data:
            raise OutputExists(store.uri, "another bake has begun there") from None


def end(store: Store) -> None:
    """Takes the mark of an unfinished bake away, if it is there."""
    with contextlib.suppress(ObjectNotFound):
        store.stat(_STARTED)
        store.delete(_STARTED)
