"""Drafts a recipe file for a zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import fspath
from typing import Any

from lego_ray.arguments import checked
from lego_ray.errors import AlreadyExists, NoAdaptersFound, ObjectNotFound, OutputExists
from lego_ray.merging.record import entries_set_aside
from lego_ray.planning.arguments import Uri, checked_checkpoints, sources_given
from lego_ray.planning.draft import common_rank, draft_entries, draft_text
from lego_ray.planning.inventory import require_adapters
from lego_ray.planning.recipe_file import parse_recipe_file
from lego_ray.planning.scan_limits import checked_limits
from lego_ray.records import Record
from lego_ray.sources.headers import Counted, scan_sources, untold
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class InitRecord(Record):
    """What `init` wrote.

    Attributes:
        recipe: Where the recipe file is.
        text: What it says.
        merges: Each with `name`, `base_model`, `adapters` (how many), `rank_min`, `rank_max` and
            `problem`: None, or why it cannot be merged as it is.
        adapters: How many adapters are usable.
        refused: Each with `adapter` (URI) and `reason`.
        passed_over: Each with `adapter`, `why` and `checkpoints`, one per training run.
        notes: Each with `adapter` and `note`, on what was set aside.
        counts: How many adapters were found, and what became of them; see `MergeRecord`.
        warnings: What the user should know.
    """

    recipe: str
    text: str
    merges: tuple[Mapping[str, Any], ...]
    adapters: int
    refused: tuple[Mapping[str, Any], ...]
    passed_over: tuple[Mapping[str, Any], ...]
    notes: tuple[Mapping[str, Any], ...]
    counts: Mapping[str, int]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.recipe}: {len(self.merges)} merges>"


@checked
def init(
    sources: Uri | Sequence[Uri],
    *,
    output: Uri = "recipe.yaml",
    library: Uri = "library",
    catalog: Uri | None = None,
    checkpoints: str = "last",
    scan_limits: Mapping[str, float] | None = None,
    progress: Counted = untold,
) -> InitRecord:
    """Looks at a zoo and writes a recipe file for it, with comments: one merge per base model.

    Reads headers only. Each merge is planned; one that cannot be made as it is, is written as a comment
    with the reason. Nothing is ever overwritten.

    Args:
        sources: As for `merge`.
        output: Where to write the file: a path or `s3://bucket/key`.
        library: What the file has as `output`.
        catalog: What the file has as `catalog`.
        checkpoints: As for `merge`.
        scan_limits: As for `merge`.
        progress: Called with the number of adapters read, and of those there are to read.

    Returns:
        What was written; see `InitRecord`, which is read like a dictionary too.

    Raises:
        NoAdaptersFound: If there is no adapter that can be merged.
        OutputExists: If something is where the file should go.
        StorageError: If a store cannot be read or written.
    """
    place = parse_uri(output)
    parts = place.split()
    if parts is None:
        raise OutputExists(str(place), "this is the root of a store", "Give the path of a file.")
    store, key = parts[0].open(), parts[1]
    _check_free(place)
    given = sources_given(sources)
    found = scan_sources(
        given,
        checkpoints=checked_checkpoints(checkpoints),
        limits=checked_limits(scan_limits),
        progress=progress,
    ).inventory
    require_adapters(found, given)
    if not found.adapters:
        raise NoAdaptersFound(", ".join(given), "no adapter here can be merged")
    rank = common_rank(found.adapters)
    entries = draft_entries(found, rank)
    settings = {
        "checkpoints": checkpoints if checkpoints != "last" else "",
        "scan_limits": dict(scan_limits or {}),
    }
    text = draft_text(
        found,
        entries,
        sources=given,
        settings={name: value for name, value in settings.items() if value},
        output=fspath(library),
        catalog="" if catalog is None else fspath(catalog),
        rank=rank,
    )
    if not all(entry.problem for entry in entries):
        parse_recipe_file(text, str(place))  # whatever names the zoo has, the file is read as meant
    try:
        store.create(key, text.encode())
    except AlreadyExists as error:
        raise _exists(place) from error
    return InitRecord(
        recipe=str(place),
        text=text,
        merges=tuple(
            {
                "name": entry.name,
                "base_model": entry.base_model,
                "adapters": len(entry.adapters),
                "rank_min": entry.ranks[0],
                "rank_max": entry.ranks[1],
                "problem": entry.problem or None,
            }
            for entry in entries
        ),
        adapters=len(found.adapters),
        **entries_set_aside(found),
        counts=found.counts.as_json(),
        warnings=tuple(found.about(found.adapters)[1]),
    )


def _check_free(place: Place) -> None:
    folder, key = place.split() or (place, "")
    try:
        folder.open().stat(key)
    except ObjectNotFound:
        return
    raise _exists(place)


def _exists(place: Place) -> OutputExists:
    return OutputExists(
        str(place), "a file exists here", "Give another --output; no file is ever replaced."
    )
