"""What a commit may do to a table; `commit` makes each of these exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import pyarrow as pa

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

# Put by put, the library moves an append behind the commits that overtook it; each writer that
# races costs at most one such step at a time, so this allows far more writers than is sane.
_LIBRARY_RETRIES = 100

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
            a name only one succeeds; the other looks at the table anew.
        mode: `overwrite` puts the rows in place of all there are.
    """

    data: pa.Table
    transactions: Transactions
    mode: Literal["append", "overwrite"] = "append"

    def apply(self, handle: DeltaTable) -> None:
        """Writes them."""
        from deltalake import write_deltalake

        write_deltalake(
            handle, self.data, mode=self.mode, commit_properties=_properties(self.transactions)
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """Rows to take out.

    Attributes:
        column: A text column.
        values: Rows with one of these in it go; hex digits and such, of no quotes.
        transactions: As for `Rows`.
    """

    column: str
    values: Sequence[str]
    transactions: Transactions

    def apply(self, handle: DeltaTable) -> None:
        """Deletes them; their files stay until a vacuum."""
        quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in self.values)
        handle.delete(
            f"{self.column} IN ({quoted})", commit_properties=_properties(self.transactions)
        )


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
        """Writes its row anew; the former stays in the table's history."""
        handle.update(
            updates={"version": str(self.version)},
            predicate=f"merge_id = '{self.merge_id}'",
            commit_properties=_properties(self.transactions),
        )


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

        handle.alter.add_columns(Schema.from_arrow(self.schema).fields)


@dataclass(frozen=True, slots=True)
class Properties:
    """Properties of the table to set.

    Attributes:
        values: By name.
    """

    values: Mapping[str, str] = field(default_factory=dict)

    def apply(self, handle: DeltaTable) -> None:
        """Sets them."""
        handle.alter.set_table_properties(dict(self.values), raise_if_not_exists=False)


def _properties(transactions: Transactions) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    return CommitProperties(
        max_commit_retries=_LIBRARY_RETRIES,
        app_transactions=[Transaction(*pair) for pair in transactions],
    )
