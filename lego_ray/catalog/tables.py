"""A catalog: Delta tables under one URI, to append to and read from."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from lego_ray.catalog.commit import Change, commit
from lego_ray.catalog.location import delta_options, explain, table_uri
from lego_ray.catalog.reading import native_filesystem
from lego_ray.catalog.rows import Row, conform, table_spec
from lego_ray.catalog.schema import DETAIL_TABLES, SCHEMA_VERSION, TABLES
from lego_ray.errors import CatalogError, CatalogNotFound

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Where a table keeps the version of the schema it was made with.
VERSION_KEY = "lego_ray.schema_version"

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
    """

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)

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
            return Change(data, transactions=((name, version),))

        commit(lambda: self.open_or_create(table), change, self.table_uri(table))

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads a table into memory, or some of its columns; see `dataset` for what is in it.

        Raises:
            CatalogNotFound: If there is no such table yet.
            CatalogError: If a column is not in it.
        """
        dataset = self.dataset(table)
        unknown = set(columns or ()) - set(dataset.schema.names)
        if unknown:
            raise CatalogError(
                f"{table}.{min(unknown)}",
                "the table has no such column",
                f"Its columns are {', '.join(dataset.schema.names)}.",
            )
        with explain(self.table_uri(table)):
            return dataset.to_table(columns=None if columns is None else list(columns))

    def exists(self, table: str) -> bool:
        """Tells whether anything was ever written to a table."""
        from deltalake import DeltaTable

        table_spec(table)
        with explain(self.table_uri(table)):
            return DeltaTable.is_deltatable(self.table_uri(table), self._options)

    def dataset(self, table: str) -> ds.Dataset:
        """Opens a table's present state as a pyarrow dataset, without reading its rows.

        Of `merge_sites` and `msus` it has the rows of merges that are in `merges` only: the rest
        are of runs that were cut short or are still publishing.

        Raises:
            CatalogNotFound: If there is no such table yet.
        """
        table_spec(table)
        if table not in DETAIL_TABLES:
            return self._whole(table)
        # `merges` first: details of whatever it lists were committed before it.
        ids = pa.array([], pa.string())
        if self.exists("merges"):
            ids = self._whole("merges").to_table(["merge_id"]).column("merge_id").combine_chunks()
        return self._whole(table).filter(pc.field("merge_id").isin(ids))

    def tables(self) -> tuple[str, ...]:
        """Names the tables that exist."""
        return tuple(table for table in TABLES if self.exists(table))

    def table_uri(self, table: str) -> str:
        """Says where a table is, as any Delta Lake reader takes it."""
        return table_uri(self.uri, table)

    def filesystem(self, table: str) -> fs.FileSystem | None:
        """Opens the file system below a table's directory, for reading its files."""
        return native_filesystem(self.table_uri(table), self.storage_options)

    def open(self, table: str) -> DeltaTable:
        """Opens a table's present state.

        Raises:
            CatalogNotFound: If there is no such table yet.
            CatalogError: If it was made by a later version of lego-ray.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        table_spec(table)
        uri = self.table_uri(table)
        with explain(uri):
            try:
                handle = DeltaTable(uri, storage_options=self._options)
            except TableNotFoundError as error:
                raise CatalogNotFound(
                    uri, "there is no such table", "Check --catalog, or scan or merge first."
                ) from error
            version = int(handle.metadata().configuration.get(VERSION_KEY, "0"))
        if version > SCHEMA_VERSION:
            raise CatalogError(
                uri,
                f"its schema version is {version}, and this lego-ray knows up to {SCHEMA_VERSION}",
                "Upgrade lego-ray.",
            )
        return handle

    def open_or_create(self, table: str) -> DeltaTable:
        """Opens a table, making it empty if there is none; any number may do so at once."""
        from deltalake import DeltaTable

        try:
            return self.open(table)
        except CatalogNotFound:
            spec = table_spec(table)
            DeltaTable.create(
                self.table_uri(table),
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

    def _whole(self, table: str) -> ds.Dataset:
        handle = self.open(table)
        with explain(self.table_uri(table)):
            return handle.to_pyarrow_dataset(filesystem=self.filesystem(table))

    @property
    def _options(self) -> dict[str, str]:
        return delta_options(self.uri, self.storage_options)
