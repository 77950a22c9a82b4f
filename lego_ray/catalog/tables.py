"""A catalog: Delta tables under one URI, to append to and read from."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from lego_ray.catalog.changes import Change, Rows
from lego_ray.catalog.commit import commit
from lego_ray.catalog.dataset import stored_schema, table_dataset
from lego_ray.catalog.failures import read_through, reopen
from lego_ray.catalog.inside import check_files_inside, check_no_file, check_table
from lego_ray.catalog.location import delta_options, delta_uri, table_uri
from lego_ray.catalog.moments import check_files, past, travel
from lego_ray.catalog.reading import native_filesystem
from lego_ray.catalog.rewriting import check_plain
from lego_ray.catalog.rows import Row, as_read, check_addable, check_whole, conform, table_spec
from lego_ray.catalog.schema import DETAIL_TABLES, SCHEMA_VERSION, TABLES
from lego_ray.catalog.versions import VERSION_KEY, check_current, check_readable
from lego_ray.errors import CatalogError, CatalogNotFound

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Commits between checkpoints; the library's 100 makes each opening read 50 small objects on
# average. Eight racing writers on S3 took 87 s with 100, 72 s with 20 (on a loaded machine).
_CHECKPOINT_INTERVAL = "20"


@dataclass(frozen=True)
class Catalog:
    """The tables of one catalog.

    A value: it can be pickled and sent to a worker, and holds nothing open. Any number of
    processes may append at once; each append is there once, or raised.

    Attributes:
        uri: A directory, as a path or `file://`, or `s3://bucket/prefix`.
        storage_options: Options of the Delta Lake library, such as `AWS_ENDPOINT_URL`. Not shown
            when the catalog is printed, since secrets are among them.
        fresh_options: What gives more of them, asked at each opening of a table: a role's credentials
            expire within a run of hours.
        at: The moment it is read as of, in UTC; None for the present. See `as_of`.
    """

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    fresh_options: Callable[[], Mapping[str, str]] | None = field(default=None, repr=False)
    at: datetime | None = None

    def as_of(self, moment: datetime) -> Catalog:
        """The catalog as it was, to read only: the merges recorded by then, with all their details.

        A merge counts from the commit of its row, an instant after its `created_at`. Details are
        written before it and never change, so they are read as they are kept now.

        Args:
            moment: When; in UTC if it names no zone.

        Raises:
            InvalidOption: If it is to come.
        """
        return replace(self, at=past(moment))

    def append(
        self,
        table: str,
        rows: pa.Table | Sequence[Row],
        idempotency: tuple[str, int] | None = None,
    ) -> None:
        """Appends rows in one commit, exactly once; makes the table if there is none.

        Args:
            table: Name of the table.
            rows: What to append, checked against the table's columns. None: nothing is written.
            idempotency: (name, version) of this append. If an append to the table under that name
                had this version or a later one, nothing is written.

        Raises:
            CatalogError: If the rows do not fit the columns, or the commit was refused.
            StorageError: If the store could not be reached or refused access.
        """
        data = conform(table, rows)
        if not data.num_rows:
            return
        # A commit whose answer got lost is tried again. Under a name of its own the second try
        # finds the first; nameless, it would add the rows twice.
        name, version = idempotency or (uuid.uuid4().hex, 1)

        def change(handle: DeltaTable, again: bool) -> Change | None:
            # Looking a name up replays the log; one made up just now is not in it.
            known = again or idempotency is not None
            if known and (handle.transaction_version(name) or 0) >= version:
                return None
            return Rows(data, transactions=((name, version),))

        commit(lambda: self.open_or_create(table), change, self.table_uri(table))

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Reads a table into memory, or some of its columns and rows; see `dataset` for what is in it.

        Raises:
            CatalogNotFound: If there is no such table yet.
            CatalogError: If a column is not in it, or what is stored is damaged or of no such table.
        """
        return reopen(lambda: self._read(table, columns, where))

    def _read(
        self, table: str, columns: Sequence[str] | None, where: pc.Expression | None
    ) -> pa.Table:
        dataset = self.dataset(table, where)
        unknown = set(columns or ()) - set(dataset.schema.names)
        if unknown:
            raise CatalogError(
                f"{table}.{min(unknown)}",
                "the table has no such column",
                f"Its columns are {', '.join(dataset.schema.names)}.",
            )
        chosen = None if columns is None else list(columns)
        found = read_through(
            self.table_uri(table), lambda: dataset.to_table(columns=chosen, filter=where)
        )
        check_whole(table, found)
        return found

    def exists(self, table: str) -> bool:
        """Tells whether anything was ever written to a table, by the moment it is read as of."""
        from deltalake import DeltaTable

        table_spec(table)
        if self.at is not None:
            try:
                self.open("merges" if table in DETAIL_TABLES else table)
            except CatalogNotFound:
                return False
            return self.present.exists(table)
        uri = self.table_uri(table)
        return read_through(uri, lambda: DeltaTable.is_deltatable(delta_uri(uri), self._options))

    def came_later(self, table: str) -> bool:
        """Tells whether a table exists that did not by the moment it is read as of."""
        return self.at is not None and not self.exists(table) and self.present.exists(table)

    def dataset(self, table: str, where: pc.Expression | None = None) -> ds.Dataset:
        """Opens a table's state as a pyarrow dataset, without reading its rows.

        Its columns are those of the present schema version; a table of an older one has nulls in the
        newer of them. Of `merge_sites` and `msus` it has the rows of merges that are in `merges` only:
        the rest are of runs that were cut short or are still publishing.

        Args:
            table: Name of the table.
            where: Leaves out files none of whose rows can fit it; the others have all their rows.

        Raises:
            CatalogNotFound: If there is no such table yet.
        """
        table_spec(table)
        if table not in DETAIL_TABLES:
            return self.whole(table, where)
        # `merges` first: details of whatever it lists were committed before it.
        ids = pa.array([], pa.string())
        if self.exists("merges"):
            ids = self.read("merges", ["merge_id"])["merge_id"].combine_chunks()
        return self.present.whole(table, where).filter(pc.field("merge_id").isin(ids))

    def tables(self) -> tuple[str, ...]:
        """Names the tables that exist."""
        return tuple(table for table in TABLES if self.exists(table))

    def required_tables(self) -> tuple[str, ...]:
        """Names the tables that exist, of which there must be one, now if not by the moment asked about.

        Raises:
            CatalogNotFound: If there is none.
        """
        tables = self.tables()
        if not tables:
            check_no_file(self.table_uri("merges"))
        if not tables and not (self.at is not None and self.present.tables()):
            raise CatalogNotFound(
                self.uri,
                "no catalog table exists here",
                "Check --catalog, or scan or merge first.",
            )
        return tables

    def table_uri(self, table: str) -> str:
        """Says where a table is."""
        return table_uri(self.uri, table)

    def filesystem(self, table: str) -> fs.FileSystem | None:
        """Opens the file system below a table's directory, for reading its files."""
        return native_filesystem(self.table_uri(table), self._options)

    def open(self, table: str) -> DeltaTable:
        """Opens a table's state: the present one, or that of the moment it is read as of.

        Raises:
            CatalogNotFound: If there is no such table yet.
            CatalogVersionMismatch: If it was made by a later version of lego-ray.
            CatalogError: If its log does not go back far enough.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        table_spec(table)
        uri = self.table_uri(table)
        check_table(uri)

        def opened() -> DeltaTable:
            try:
                handle = DeltaTable(delta_uri(uri), storage_options=self._options)
            except TableNotFoundError as error:
                raise CatalogNotFound(
                    uri, "there is no such table", "Check --catalog, or scan or merge first."
                ) from error
            check_readable(uri, handle)
            if self.at is not None:
                travel(uri, handle, self.at)
            check_files_inside(uri, handle)
            return handle

        return read_through(uri, opened)

    def check_writable(self, tables: Iterable[str] = tuple(TABLES)) -> None:
        """Makes sure that rows can be added to the tables that exist; reads their logs only.

        Args:
            tables: Which tables.

        Raises:
            CatalogVersionMismatch: If a table is of another schema version.
            CatalogError: If another program changed a table so that rows cannot be added.
        """
        for table in tables:
            try:
                # To ask whether it exists would hold up all other threads.
                handle = self.open(table)
            except CatalogNotFound:
                continue
            uri = self.table_uri(table)
            check_current(uri, handle)
            check_plain(handle)
            check_addable(table, stored_schema(handle))

    def open_or_create(self, table: str) -> DeltaTable:
        """Opens a table to write to, making it empty if there is none; any number may do so at once.

        Raises:
            CatalogError: If this is the catalog as it was at some time.
            CatalogVersionMismatch: If it is of another schema version.
        """
        from deltalake import DeltaTable

        if self.at is not None:
            raise CatalogError(self.uri, "a catalog opened at a time in the past is read-only")
        try:
            handle = self.open(table)
            check_current(self.table_uri(table), handle)
            return handle
        except CatalogNotFound:
            spec = table_spec(table)
            DeltaTable.create(
                delta_uri(self.table_uri(table)),
                spec.schema,
                mode="ignore",
                name=table,
                description=spec.doc,
                configuration={
                    VERSION_KEY: str(SCHEMA_VERSION),
                    "delta.checkpointInterval": _CHECKPOINT_INTERVAL,
                },
                storage_options=self._options,
                raise_if_key_not_exists=False,
            )
            return self.open(table)

    def whole(self, table: str, where: pc.Expression | None = None) -> ds.Dataset:
        """Opens a table as `dataset` does, with the rows that belong to no merge.

        Args:
            table: Name of the table.
            where: Leaves out files none of whose rows can fit it; the others have all their rows.

        Raises:
            CatalogNotFound: If there is no such table yet.
            CatalogError: If a file is damaged, or files of the moment it is read as of are gone.
        """
        uri = self.table_uri(table)

        def opened() -> ds.Dataset:
            handle, files = self.open(table), self.filesystem(table)
            if self.at is not None:
                check_files(uri, handle, files, self.at)
            schema = as_read(table, stored_schema(handle))
            newer = [f for f in table_spec(table).schema if f.name not in set(schema.names)]
            return table_dataset(handle, files, pa.schema([*schema, *newer]), where)

        return reopen(lambda: read_through(uri, opened))

    @property
    def present(self) -> Catalog:
        """The catalog as it is now."""
        return replace(self, at=None)

    def options(self) -> dict[str, str]:
        """The Delta library's options for the store, with the credentials of this moment."""
        return self._options

    @property
    def _options(self) -> dict[str, str]:
        fresh = self.fresh_options() if self.fresh_options else {}
        return delta_options(self.uri, {**self.storage_options, **fresh})
