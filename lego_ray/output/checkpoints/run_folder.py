"""The folder beside an output that is being made, and what can be said of it without torch.

<output>/.lego-ray/run.json                      which plan the output is being made by
<output>/.lego-ray/<plan digest>/*.checkpoint    one file a finished task
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Strict

from lego_ray.errors import MalformedAdapter, ObjectNotFound, OutputExists
from lego_ray.formats.forms import Form, Many, Table, read_as, sentence_of
from lego_ray.formats.strict_json import parse_object
from lego_ray.storage.base import Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.links import lies_inside

FOLDER = ".lego-ray/"
MARKER = f"{FOLDER}run.json"
# Of a library: the lease of the refresh that is at work.
REFRESH_FOLDER = f"{FOLDER}refresh/"
# Of a library: what the last refresh found that had nothing to do.
UNCHANGED_FOLDER = f"{FOLDER}unchanged/"
# Of a library: what the last refresh read of its adapters' headers.
READINGS_FOLDER = f"{FOLDER}readings/"
# Not .safetensors: a scan must not take one for an adapter.
ENDING = ".checkpoint"
# Changes whenever a file of another release must not be read.
CHECKPOINT_VERSION = 1
# The entry of a checkpoint's metadata that holds all but its arrays.
TEXT = "lego_ray_checkpoint"
LARGEST_MARKER = 1 << 20


class UnreadableCheckpoint(Exception):
    """A file is not a checkpoint of this plan and release, or is damaged; it never leaves this room."""


class Marker(Form):
    """What says which run an output is being made by; a key `work` came later than the others."""

    checkpoint_version: Literal[1]  # CHECKPOINT_VERSION
    plan: str
    work: str = ""
    name: str
    method: str
    rank: int | str
    adapters: int
    sites: int
    started_at: str
    catalog: str | None


class _Saved(Form):
    """A part whose other values go back to where they came from as they are."""

    model_config = ConfigDict(extra="allow")


class SavedSite(_Saved):
    """A solved site, without its arrays."""

    site: str
    inertia: float | None = None


class SavedFinding(_Saved):
    """What a pass that does not merge found at a site, without its arrays."""

    site: str


class SavedCosts(_Saved):
    """What a task cost."""

    bytes_read: int


class Summary(Form):
    """All that a checkpoint holds but its arrays; see `format`.

    Earlier releases had `spectra` for what measuring found, in place of `found`.
    """

    version: Literal[1]  # CHECKPOINT_VERSION
    plan: str
    work: str = ""
    number: int
    of_sites: int
    saved_at: str
    made_by: str = ""
    covers: Many[str]
    sites: Many[SavedSite]
    found: Many[SavedFinding] = ()
    spectra: Many[Annotated[tuple[str, int], Strict(False)]] = ()
    quarantined: Table[Annotated[tuple[str, str, str, str], Strict(False)]]
    full_weights: Many[str]
    result: SavedCosts

    def sites_found(self) -> tuple[str, ...]:
        """Sites at which a pass that does not merge found something."""
        return tuple(each.site for each in self.found) + tuple(site for site, _ in self.spectra)


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


def read_marker(store: Store) -> Marker | None:
    """Says which run an output is being made by, or None if there is none.

    Raises:
        OutputExists: If what is there is no marker of this release.
    """
    try:
        data = read_at_most(store, MARKER, LARGEST_MARKER)
    except ObjectNotFound:
        return None

    def refused(faults: tuple[str, ...]) -> OutputExists:
        return OutputExists(
            store.uri,
            f"its {MARKER} is of another release of lego-ray, or was changed: {sentence_of(faults)}",
            f"Finish that run with that release, choose another --output, or delete "
            f"{folder_uri(store)}.",
        )

    try:
        content = parse_object(data, MARKER)
    except MalformedAdapter as error:
        raise refused((error.problem,)) from None
    return read_as(Marker, content, refused)


def parse_text(metadata: Mapping[str, str]) -> Summary:
    """All that a checkpoint holds but its arrays, from its metadata.

    Raises:
        UnreadableCheckpoint: If there is none of this release's version.
    """
    try:
        content = json.loads(metadata[TEXT])
    except (KeyError, ValueError, RecursionError) as error:
        raise UnreadableCheckpoint("it is not a checkpoint") from error
    said = f"it is not a checkpoint of version {CHECKPOINT_VERSION}"
    return read_as(Summary, content, lambda f: UnreadableCheckpoint(f"{said}: {sentence_of(f)}"))
