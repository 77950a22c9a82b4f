"""The folder beside an output that is being made, and what can be said of it without torch.

<output>/.lego-ray/run.json                      which plan the output is being made by
<output>/.lego-ray/<plan digest>/*.checkpoint    one file a finished task
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lego_ray.errors import ObjectNotFound, OutputExists
from lego_ray.storage.base import Store

FOLDER = ".lego-ray/"
MARKER = f"{FOLDER}run.json"
# Not .safetensors: a scan must not take one for an adapter.
ENDING = ".checkpoint"
# Changes whenever a file of another release must not be read.
CHECKPOINT_VERSION = 1
# The entry of a checkpoint's metadata that holds all but its arrays.
TEXT = "lego_ray_checkpoint"


class UnreadableCheckpoint(Exception):
    """A file is no checkpoint of this plan and release, or is damaged; it never leaves this room."""


def folder_uri(store: Store) -> str:
    """Where an output's folder is, in words a user can act on."""
    return f"{store.uri}/{FOLDER.rstrip('/')}"


def read_marker(store: Store) -> dict[str, Any] | None:
    """Says which run an output is being made by, or None if there is none.

    Raises:
        OutputExists: If what is there is no marker of this release.
    """
    try:
        data = store.read(MARKER)
    except ObjectNotFound:
        return None
    try:
        marker = dict(json.loads(data))
        known = marker["checkpoint_version"] == CHECKPOINT_VERSION and "plan" in marker
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise OutputExists(
            store.uri,
            f"its {MARKER} is of another release of lego-ray",
            f"Finish that run with that release, choose another --output, or delete "
            f"{folder_uri(store)}.",
        )
    return marker


def parse_text(metadata: Mapping[str, str]) -> dict[str, Any]:
    """All that a checkpoint holds but its arrays, from its metadata.

    Raises:
        UnreadableCheckpoint: If there is none of this release's version.
    """
    try:
        about = dict(json.loads(metadata[TEXT]))
        version = about["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableCheckpoint("it is no checkpoint") from error
    if version != CHECKPOINT_VERSION:
        raise UnreadableCheckpoint(
            f"it is of version {version}, this release writes {CHECKPOINT_VERSION}"
        )
    return about
