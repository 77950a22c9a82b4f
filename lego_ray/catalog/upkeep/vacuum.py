"""Removes files that no state of a table within the retention needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pyarrow import fs

from lego_ray.catalog.commit import wait_after
from lego_ray.catalog.failures import explain
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.durations import KEPT, SHORTEST, check_long_enough
from lego_ray.errors import CatalogError

# Names the Delta library and Spark give data files. No table here has folders.
_DATA_FILE = re.compile(r"part-[^/]*\.parquet")
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What was done to one table, or would be.

    Attributes:
        table: Its name.
        files: Files removed, of former states and of writers that crashed.
        n_bytes: Their size.
    """

    table: str
    files: int
    n_bytes: int


def vacuum(
    catalog: Catalog,
    table: str,
    retention: timedelta = KEPT,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Vacuumed:
    """Removes a table's files that have been out of use for longer than the retention.

    Whoever opened the table within it goes on reading the state they opened. Time travel reaches back as
    far. A file that no commit names may be one that a writer is about to commit, so such a file is kept
    for `durations.SHORTEST` at least, whatever the retention. Any number may do this at once.

    Args:
        catalog: Which catalog.
        table: Name of the table.
        retention: For how long a file that was replaced is kept, in whole hours.
        dry_run: Whether only to say what would be removed.
        force: Whether a retention below `durations.SHORTEST` is meant.

    Raises:
        CatalogNotFound: If there is no such table yet.
        CatalogError: If a file that would be removed is not one of the table's; nothing was.
        InvalidOption: If the retention is too short.
        StorageError: If the store could not be reached or refused access.
    """
    check_long_enough("--retention", retention, force)
    uri = catalog.table_uri(table)
    passes = _passes(-(-retention // timedelta(hours=1)))
    names: list[str] = []
    for hours, full in passes:
        names += _vacuum(catalog, table, hours, full, dry_run=True)
    names = list(dict.fromkeys(names))
    _check_names(uri, names)
    with explain(uri):
        sizes = _sizes(catalog, table, names)
    if sizes and not dry_run:
        for hours, full in passes:
            _vacuum(catalog, table, hours, full, dry_run=False)
    return Vacuumed(table, len(sizes), sum(sizes))


def _passes(hours: int) -> list[tuple[int, bool]]:
    """The library's vacuums that make up one: the hours of each, and whether it is a full one."""
    if hours > KEPT // timedelta(hours=1):
        # A checkpoint forgets after seven days that a file was replaced. A full vacuum would then go by
        # the file's own age, which is greater, so a longer retention can only go by the log.
        return [(hours, False)]
    shortest = SHORTEST // timedelta(hours=1)
    if hours < shortest:
        return [(hours, False), (shortest, True)]
    return [(hours, True)]


def _vacuum(catalog: Catalog, table: str, hours: int, full: bool, dry_run: bool) -> list[str]:
    """One vacuum by the library, which notes in the log when it begins and when it ends.

    The notes may lose too many races against other writers. What was removed by then is gone and in no
    state of the table, so the same can be asked again.
    """
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError

    uri = catalog.table_uri(table)
    attempt = 0
    while True:
        attempt += 1
        handle = catalog.open(table)
        try:
            with explain(uri):
                removed: list[str] = handle.vacuum(
                    hours,
                    dry_run=dry_run,
                    enforce_retention_duration=False,
                    full=full,
                    commit_properties=CommitProperties(max_commit_retries=100),
                )
                return removed
        except CatalogError as error:
            if not isinstance(error.__cause__, CommitFailedError) or attempt == _ATTEMPTS:
                raise
            wait_after(attempt)


def _check_names(uri: str, names: Sequence[str]) -> None:
    """A full vacuum takes all that the log does not name, and a user may keep other things there."""
    foreign = [name for name in names if not _DATA_FILE.fullmatch(name)]
    if foreign:
        raise CatalogError(
            uri,
            f"{len(foreign)} files in it are not the table's, such as {foreign[0]}",
            "Move them elsewhere, then vacuum again; nothing was removed.",
        )


def _sizes(catalog: Catalog, table: str, names: Sequence[str]) -> list[int]:
    """Sizes of the files that are there: the log names those of earlier vacuums too.

    They are listed, as the vacuum itself lists them: asking for each would take more requests each time.
    """
    files = catalog.filesystem(table)
    if files is None:
        return [0] * len(names)
    listed = files.get_file_info(fs.FileSelector("", recursive=True)) if names else ()
    sizes = {info.path: info.size or 0 for info in listed}
    return [sizes[name] for name in names if name in sizes]
