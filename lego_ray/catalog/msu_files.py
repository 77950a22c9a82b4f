"""Rows of `msus` that are written while their merge runs, and are not in memory until its end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from lego_ray.catalog.commit import commit
from lego_ray.catalog.data_files import DataFile, now_millis, write_data_file
from lego_ray.catalog.failures import read_through
from lego_ray.catalog.msus import FILE_ROWS, MsuRows, SiteMsus
from lego_ray.catalog.reading import filesystem_of, put_file
from lego_ray.catalog.rewriting import check_plain
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.durations import SHORTEST
from lego_ray.errors import CatalogNotFound

if TYPE_CHECKING:
    from deltalake import DeltaTable

_TABLE = "msus"
# A vacuum takes a file that no commit names after `SHORTEST`, and a run may take longer. So files are
# copied in time; no task takes as long as what is left.
_RENEWED_AFTER = SHORTEST / 2


class MsuFiles:
    """A merge's rows of `msus`, in files that no commit names yet.

    `append_merge` adds them to the table. The files of a run that is given up are in no state of the
    table, so a vacuum removes them.
    """

    def __init__(
        self,
        catalog: Catalog,
        merge_id: str,
        adapter_ids: Sequence[str],
        *,
        file_rows: int = FILE_ROWS,
    ) -> None:
        """Writes nothing yet.

        Args:
            catalog: Where the merge will be recorded.
            merge_id: The merge.
            adapter_ids: adapter_id of each adapter, by its number.
            file_rows: As in `MsuRows`.
        """
        self.merge_id = merge_id
        self.num_rows = 0
        self._catalog = catalog
        self._adapter_ids = adapter_ids
        self._file_rows = file_rows
        self._waiting: list[SiteMsus] = []
        self._files: list[DataFile] = []

    def add(self, sites: Iterable[SiteMsus]) -> None:
        """Takes rows; they are written once there are enough for a file.

        Args:
            sites: Rows of sites that it has none of yet.

        Raises:
            CatalogError: If another program changed the table so that rows cannot be added.
            StorageError: If the store could not be reached or refused access.
        """
        for site in sites:
            n_waiting = sum(len(each.adapters) for each in self._waiting)
            if self._waiting and n_waiting + len(site.adapters) > self._file_rows:
                self._write()
            if len(site.adapters):
                self._waiting.append(site)
                self.num_rows += len(site.adapters)
        self._renew()

    def adopt(self, files: Iterable[DataFile]) -> None:
        """Takes files that a worker wrote; see `MsuTarget`.

        Args:
            files: The files, with rows of sites that it has none of yet.
        """
        for file in files:
            self._files.append(file)
            self.num_rows += json.loads(file.stats)["numRecords"]

    def target(self) -> MsuTarget:
        """What lets workers write rows; creates the table if it is missing.

        Raises:
            CatalogError: If another program changed the table so that rows cannot be added.
            StorageError: If the store could not be reached or refused access.
        """
        uri = self._catalog.table_uri(_TABLE)
        handle = read_through(uri, lambda: self._catalog.open_or_create(_TABLE))
        check_plain(handle)
        table = str(handle.metadata().id)
        return MsuTarget(self._catalog, table, self.merge_id, tuple(self._adapter_ids))

    def files(self) -> list[DataFile]:
        """All files, of which no vacuum takes one before a commit that comes now.

        Raises:
            CatalogError: As by `add`, or if a file is gone.
            StorageError: As by `add`.
        """
        if self._waiting:
            self._write()
        self._renew()
        return list(self._files)

    def _write(self) -> None:
        rows = MsuRows(self.merge_id, self._adapter_ids, tuple(self._waiting)).table()

        def write(handle: DeltaTable) -> DataFile | None:
            check_plain(handle)
            return write_data_file(handle, rows.schema, rows.to_batches())

        self._files += self._at_table(write)
        self._waiting.clear()

    def _renew(self) -> None:
        oldest = now_millis() - _RENEWED_AFTER // timedelta(milliseconds=1)
        for number, file in enumerate(self._files):
            if file.written_at < oldest:
                [self._files[number]] = self._at_table(partial(_copy, file))

    def _at_table(self, work: Callable[[DeltaTable], DataFile | None]) -> list[DataFile]:
        """What a function writes beside the table, tried again as a commit is."""
        made: list[DataFile] = []

        def prepare(handle: DeltaTable, again: bool) -> None:
            del again
            if file := work(handle):
                made.append(file)

        commit(
            lambda: self._catalog.open_or_create(_TABLE), prepare, self._catalog.table_uri(_TABLE)
        )
        return made


@dataclass(frozen=True, slots=True)
class MsuTarget:
    """Where a worker writes rows of a merge; it travels with the task.

    Attributes:
        catalog: The catalog.
        table: The id that the Delta library gave the table.
        merge_id: The merge.
        adapter_ids: adapter_id of each adapter, by its number.
    """

    catalog: Catalog
    table: str
    merge_id: str
    adapter_ids: tuple[str, ...]

    def write(self, sites: Sequence[SiteMsus]) -> tuple[DataFile, ...]:
        """Writes rows to files that no commit names yet.

        Args:
            sites: The rows, site by site.

        Returns:
            The files; none if this process sees another table at the catalog's URI, as on the disk of
            another machine, or none.

        Raises:
            CatalogError: If they could not be written.
            StorageError: If the store could not be reached or refused access.
        """
        try:
            if str(self.catalog.open(_TABLE).metadata().id) != self.table:
                return ()
        except CatalogNotFound:
            return ()
        files = MsuFiles(self.catalog, self.merge_id, self.adapter_ids)
        files.add(sites)
        return tuple(files.files())


def _copy(file: DataFile, handle: DeltaTable) -> DataFile:
    """The same file under another name, as new."""
    with filesystem_of(handle).open_input_file(file.name) as opened:
        content = opened.read_buffer()
    name = f"part-{uuid.uuid4()}{file.name.removeprefix('part-')[len(str(uuid.UUID(int=0))) :]}"
    put_file(handle, name, pa.py_buffer(content))
    return replace(file, name=name, written_at=now_millis())
