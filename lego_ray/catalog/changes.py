"""What a commit may do to a table; `commit` makes each of these exactly once.

Each change is computed from one state of the table. All but an append of rows land on that very state
or not at all, whoever else writes: the Delta library would otherwise move them behind commits that it
takes for harmless, and a compaction is not harmless to what replaces or compacts the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.data_files import DataFile, write_data_file
from lego_ray.catalog.rewriting import check_plain, removals, rewrite

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

# Put by put, the library moves an append behind the commits that overtook it; each writer that
# races costs at most one such step at a time, so this allows far more writers than is sane.
_APPEND_RETRIES = 100

Transactions = tuple[tuple[str, int], ...]


class Change(Protocol):
    """One commit."""

    def apply(self, handle: DeltaTable) -> None:
        """Commits it to a table in the state given; one of the Delta library's errors if it fails."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to write, and the condition that they are written once.

    Attributes:
        data: Rows that fit the table; none for a commit that only stores its transactions.
        transactions: (name, version) pairs stored with the commit. Of two racing commits that share
            a name only one succeeds; the other looks at the table again.
        mode: `overwrite` puts the rows in place of all there are in the state it is applied to.
    """

    data: pa.Table
    transactions: Transactions
    mode: Literal["append", "overwrite"] = "append"

    def apply(self, handle: DeltaTable) -> None:
        """Writes them."""
        check_plain(handle)
        written = write_data_file(handle, self.data.schema, self.data.to_batches())
        added = [] if written is None else [written.action(data_change=True)]
        if self.mode == "append":
            _commit_files(handle, added, self.transactions, "append", retries=_APPEND_RETRIES)
        else:
            _commit_files(handle, [*removals(handle), *added], self.transactions, "overwrite")


@dataclass(frozen=True, slots=True)
class Files:
    """Files that are written, whose rows the table gets.

    Attributes:
        files: The files.
        transactions: As for `Rows`.
    """

    files: Sequence[DataFile]
    transactions: Transactions

    def apply(self, handle: DeltaTable) -> None:
        """Adds all of them, or none."""
        check_plain(handle)
        added = [each.action(data_change=True) for each in self.files]
        _commit_files(handle, added, self.transactions, "append", retries=_APPEND_RETRIES)


@dataclass(frozen=True, slots=True)
class Removal:
    """Rows to take out.

    Attributes:
        column: A text column.
        values: Rows with one of these in it go.
        transactions: As for `Rows`.
    """

    column: str
    values: Sequence[str]
    transactions: Transactions

    def apply(self, handle: DeltaTable) -> None:
        """Writes the files that have such rows again without them; they stay until a vacuum."""
        concerned = pc.field(self.column).isin(pa.array(self.values, pa.string()))
        actions = rewrite(handle, concerned, lambda batch: batch.filter(~concerned))
        _commit_files(handle, actions, self.transactions, "remove")


@dataclass(frozen=True, slots=True)
class Renumbering:
    """A merge that gets another version.

    Attributes:
        merge_id: Which.
        version: The version it gets.
        transactions: As for `Rows`.
    """

    merge_id: str
    version: int
    transactions: Transactions

    def apply(self, handle: DeltaTable) -> None:
        """Writes its row again; the former stays in the table's history."""
        actions = rewrite(handle, pc.field("merge_id") == self.merge_id, self._renumbered)
        _commit_files(handle, actions, self.transactions, "renumber")

    def _renumbered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index("version")
        mine = pc.equal(batch["merge_id"], self.merge_id)
        versions = pc.if_else(mine, pa.scalar(self.version, pa.int64()), batch["version"])
        return batch.set_column(index, batch.schema.field(index), versions)


@dataclass(frozen=True, slots=True)
class Replacement:
    """Files of a table that another takes the place of, with the same rows.

    Attributes:
        former: Names of files of the state it is applied to.
        file: The file with their rows; none if they have none.
    """

    former: Sequence[str]
    file: DataFile | None

    def apply(self, handle: DeltaTable) -> None:
        """Puts it in their place; they stay until a vacuum."""
        added = [] if self.file is None else [self.file.action(data_change=False)]
        _commit_files(handle, [*removals(handle, self.former), *added], (), "compact")


@dataclass(frozen=True, slots=True)
class Exchange:
    """Rows that take the place of others.

    Attributes:
        rows: The rows, in parts, so that one part at a time is in memory.
        schema: Their columns: all that the table has.
        merge_ids: The merges whose rows they replace; None if they replace all rows of the table.
        transactions: As for `Rows`.
    """

    rows: Callable[[], Iterator[pa.Table]]
    schema: pa.Schema
    merge_ids: Sequence[str] | None
    transactions: Transactions

    def apply(self, handle: DeltaTable) -> None:
        """Writes them; the files with the former rows stay until a vacuum."""
        check_plain(handle)
        if self.merge_ids is None:
            actions: list[AddAction | RemoveAction] = [*removals(handle)]
        else:
            concerned = pc.field("merge_id").isin(pa.array(self.merge_ids, pa.string()))
            actions = rewrite(handle, concerned, lambda batch: batch.filter(~concerned))
        batches = (
            batch
            for part in self.rows()
            for batch in part.cast(self.schema).combine_chunks().to_batches()
        )
        written = write_data_file(handle, self.schema, batches)
        if written is not None:
            actions.append(written.action(data_change=True))
        _commit_files(handle, actions, self.transactions, "exchange")


@dataclass(frozen=True, slots=True)
class NewColumns:
    """Columns to add, null in the rows there are.

    Attributes:
        schema: Just these columns.
    """

    schema: pa.Schema

    def apply(self, handle: DeltaTable) -> None:
        """Adds them behind the others."""
        from deltalake import Schema

        handle.alter.add_columns(
            Schema.from_arrow(self.schema).fields, commit_properties=_properties(())
        )


@dataclass(frozen=True, slots=True)
class Properties:
    """Properties of the table to set.

    Attributes:
        values: By name.
    """

    values: Mapping[str, str] = field(default_factory=dict)

    def apply(self, handle: DeltaTable) -> None:
        """Sets them."""
        handle.alter.set_table_properties(
            dict(self.values), raise_if_not_exists=False, commit_properties=_properties(())
        )


def _commit_files(
    handle: DeltaTable,
    actions: Sequence[AddAction | RemoveAction],
    transactions: Transactions,
    change: str,
    retries: int = 0,
) -> None:
    """Commits files, by default on top of the very state of the handle or not at all."""
    handle.create_write_transaction(
        list(actions),
        # The library's own overwrite allows no list of what it removes.
        "append",
        handle.schema(),
        commit_properties=_properties(transactions, retries, change),
    )


def _properties(
    transactions: Transactions, retries: int = 0, change: str | None = None
) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    return CommitProperties(
        # For whoever reads the table's history. A writer that a removal overtook must not take it for
        # an append that it need not look at.
        custom_metadata={"lego_ray.change": change, "isBlindAppend": change == "append"}
        if change
        else None,
        max_commit_retries=retries,
        app_transactions=[Transaction(*pair) for pair in transactions],
    )
