"""The folder beside an output that is being made, and what can be said of it without torch.

<output>/.lego-ray/run.json                      which plan the output is being made by
<output>/.lego-ray/<plan digest>/*.checkpoint    one file a finished task
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lego_ray.errors import MalformedAdapter, ObjectNotFound, OutputExists
from lego_ray.formats.strict_json import parse_object
from lego_ray.storage.base import Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.links import lies_inside

FOLDER = ".lego-ray/"
MARKER = f"{FOLDER}run.json"
# Not .safetensors: a scan must not take one for an adapter.
ENDING = ".checkpoint"
# Changes whenever a file of another release must not be read.
CHECKPOINT_VERSION = 1
# The entry of a checkpoint's metadata that holds all but its arrays.
TEXT = "lego_ray_checkpoint"
LARGEST_MARKER = 1 << 20
# What readers of a marker rely on.
_FIELDS: Mapping[str, Any] = {
    "plan": str,
    "name": str,
    "method": str,
    "rank": int | str,
    "adapters": int,
    "sites": int,
    "started_at": str,
    "catalog": str | None,
}


class UnreadableCheckpoint(Exception):
    """A file is not a checkpoint of this plan and release, or is damaged; it never leaves this room."""


def folder_uri(store: Store) -> str:
    """Where an output's folder is, in words a user can act on."""
    return f"{store.uri}/{FOLDER.rstrip('/')}"


def check_folder(store: Store) -> None:
    """Passes an output whose folder, if it is there, lies in it: what a run keeps is deleted at its end.

    Raises:
        OutputExists: If a link leads elsewhere from it.
    """
    if not lies_inside(store, FOLDER.rstrip("/")):
        raise OutputExists(
            store.uri,
            f"its {FOLDER.rstrip('/')} is a link to somewhere else",
            f"Delete the link {folder_uri(store)}, or choose another --output.",
        )


def read_marker(store: Store) -> dict[str, Any] | None:
    """Says which run an output is being made by, or None if there is none.

    Raises:
        OutputExists: If what is there is no marker of this release.
    """
    try:
        data = read_at_most(store, MARKER, LARGEST_MARKER)
    except ObjectNotFound:
        return None
    try:
        marker = parse_object(data, MARKER)
        known = marker["checkpoint_version"] == CHECKPOINT_VERSION and all(
            isinstance(marker[name], kind) for name, kind in _FIELDS.items()
        )
    except (MalformedAdapter, KeyError):
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
        if version == CHECKPOINT_VERSION and not _is_summary(about):
            raise TypeError("a field is of another type")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableCheckpoint("it is not a checkpoint") from error
    if version != CHECKPOINT_VERSION:
        raise UnreadableCheckpoint(
            f"it is of version {str(version)[:80]}, this release writes {CHECKPOINT_VERSION}"
        )
    return about


def sites_found(about: Mapping[str, Any]) -> list[str]:
    """Sites at which a pass that does not merge found what a checkpoint holds.

    Args:
        about: From `parse_text`. Earlier releases had an entry for what measuring found.
    """
    return [each["site"] for each in about.get("found", ())] + [
        site for site, _ in about.get("spectra", ())
    ]


def _is_summary(about: Mapping[str, Any]) -> bool:
    """Whether what can be told of a checkpoint without its arrays is as it must be.

    Raises:
        KeyError: If it is not there.
        TypeError: If it is of another type.
        ValueError: If it is out of range.
    """
    sites, said = about["sites"], about["quarantined"]
    return (
        all(isinstance(about[name], int) for name in ("number", "of_sites"))
        and all(isinstance(about[name], str) for name in ("plan", "saved_at"))
        and isinstance(about["result"]["bytes_read"], int)
        and isinstance(sites, list)
        and all(isinstance(site["site"], str) for site in sites)
        and all(isinstance(site.get("inertia"), int | float | None) for site in sites)
        and all(isinstance(site, str) for site in sites_found(about))
        and isinstance(said, dict)
        and all(len(e) == 4 and all(isinstance(t, str) for t in e) for e in said.values())
    )
