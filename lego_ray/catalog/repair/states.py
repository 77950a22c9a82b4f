"""The rows of a table in one state, with the order they were written in; and its former states."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from lego_ray.catalog.commits import commits_of
from lego_ray.catalog.dataset import stored_schema, table_dataset
from lego_ray.catalog.failures import read_through
from lego_ray.catalog.rows import check_whole
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_FILE = "__filename"
# What takes no row away and puts none in place of another.
_HARMLESS = ("CREATE TABLE", "ADD COLUMN", "SET TBLPROPERTIES", "VACUUM START", "VACUUM END")
# Former states to look at for rows that are lost.
_MOST = 200


@dataclass(frozen=True, slots=True)
class State:
    """A table as of one version.

    Attributes:
        uri: The table's, for errors.
        handle: The table in that state.
        files: Where its data lies.
        ended_at: Of a former state, when a commit took its place, in milliseconds since 1970.
    """

    uri: str
    handle: DeltaTable
    files: fs.FileSystem | None
    ended_at: int = 0

    @property
    def dataset(self) -> ds.Dataset:
        """Its rows, unread."""
        return table_dataset(self.handle, self.files)

    @property
    def schema(self) -> pa.Schema:
        """All its columns, those that users added too, in the types that it has them in."""
        return stored_schema(self.handle)

    def read(self, where: pc.Expression | None = None) -> tuple[pa.Table, list[int]]:
        """Reads rows whole.

        Returns:
            The rows; and of each a number that is lower the earlier its file was written.

        Raises:
            CatalogError: If a column is missing, of another type, or null where it may not be.
        """
        dataset = self.dataset
        columns = [*dataset.schema.names, _FILE]
        rows = read_through(self.uri, lambda: dataset.to_table(columns=columns, filter=where))
        check_whole(self.uri.rpartition("/")[2], rows)
        added = self.handle.get_add_actions()
        written = dict(
            zip(
                added.column("path").to_pylist(),
                added.column("modification_time").to_pylist(),
                strict=True,
            )
        )
        order = {time: n for n, time in enumerate(sorted(set(written.values())))}
        names = rows.column(_FILE).to_pylist()
        times = [order[written[name]] if name in written else 0 for name in names]
        return rows.drop_columns([_FILE]), times

    def after(self, catalog: Catalog) -> State:
        """The state that took the place of this one."""
        version = self.handle.version() + 1
        later = catalog.open(self.uri.rpartition("/")[2])
        read_through(self.uri, partial(later.load_as_version, version))
        return State(self.uri, later, self.files)

    def of_merge(self, merge_id: str) -> tuple[pa.Table, list[int]]:
        """Reads the rows of one merge."""
        return self.read(pc.field("merge_id") == merge_id)


def state_of(catalog: Catalog, table: str, handle: DeltaTable) -> State:
    """A table in the state that a handle has.

    Args:
        catalog: The catalog.
        table: Name of the table.
        handle: The table, opened.
    """
    return State(catalog.table_uri(table), handle, catalog.filesystem(table))


def former_states(
    catalog: Catalog, table: str, operations: Collection[str] | None = None
) -> Iterator[State]:
    """The states before each commit of others that took rows away or rewrote them, the last first.

    Those whose files a vacuum took away are left out.

    Args:
        catalog: The catalog.
        table: Name of the table.
        operations: Only those before these of Delta Lake's operations; None for all.
    """
    handle = catalog.open(table)
    files = catalog.filesystem(table)
    rewriting = [
        (commit["version"], int(commit.get("timestamp", 0)))
        for commit in commits_of(handle)
        if _rewrites(commit) and (operations is None or commit.get("operation") in operations)
    ]
    for version, ended_at in [each for each in rewriting if each[0] > 0][:_MOST]:
        former = catalog.open(table)
        try:
            read_through(catalog.table_uri(table), partial(former.load_as_version, version - 1))
        except CatalogError:  # its log was cleaned up to there
            continue
        names = former.get_add_actions().column("path").to_pylist()
        gone = files is not None and any(
            info.type == fs.FileType.NotFound for info in files.get_file_info(list(names))
        )
        if not gone:
            yield State(catalog.table_uri(table), former, files, ended_at)


def _rewrites(commit: dict[str, Any]) -> bool:
    operation = commit.get("operation", "")
    if operation == "WRITE":
        return str(commit.get("operationParameters", {}).get("mode")) == "Overwrite"
    return operation not in _HARMLESS
