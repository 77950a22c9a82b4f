"""Removes files that no state of a table within the retention needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pyarrow import fs

from lego_ray.catalog.failures import explain
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.durations import KEPT, check_long_enough
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Names the Delta library and Spark give data files. No table here has folders.
_DATA_FILE = re.compile(r"part-[^/]*\.parquet")


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

    Whoever opened the table within it goes on reading the state they opened, and a writer commits the
    files it wrote within it. Time travel reaches back as far.

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
    hours = -(-retention // timedelta(hours=1))
    handle = catalog.open(table)
    uri = catalog.table_uri(table)
    with explain(uri):
        names = _vacuum(handle, hours, dry_run=True)
        _check_names(uri, names)
        sizes = _sizes(catalog, table, names)
        if sizes and not dry_run:
            _vacuum(handle, hours, dry_run=False)
    return Vacuumed(table, len(sizes), sum(sizes))


def _vacuum(handle: DeltaTable, hours: int, dry_run: bool) -> list[str]:
    removed: list[str] = handle.vacuum(
        hours,
        dry_run=dry_run,
        enforce_retention_duration=False,
        # A checkpoint forgets after seven days that a file was replaced. A full vacuum would then go by
        # the file's own age, which is greater, so a longer retention can only go by the log.
        full=hours <= KEPT // timedelta(hours=1),
    )
    return removed


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
    """Sizes of the files that are there: the log names those of earlier vacuums too."""
    files = catalog.filesystem(table)
    if files is None:
        return [0] * len(names)
    infos = files.get_file_info(list(names))
    return [info.size or 0 for info in infos if info.type != fs.FileType.NotFound]
