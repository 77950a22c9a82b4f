"""Whose turn at a library it is, written in the tables that say which version of a merge is current.

A lease in a store cannot stop a process that was taken for dead and only slept. So the lease's number is
also in the tables: its holder claims them before it looks at anything, and each commit of its work
carries the number, under one name for all refreshes of a library. Of two commits with one name that race
Delta Lake refuses the later, and that one then finds the higher number.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from lego_ray.catalog.changes import Change, Transactions
from lego_ray.catalog.commit import commit
from lego_ray.catalog.failures import read_through
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import RunFailed
from lego_ray.formats.forms import Form, Table

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Commits of others that the library may move an empty one behind, as in `changes`.
_LIBRARY_RETRIES = 100
# Commits to look through for who claimed a table; a refresh of a thousand merges makes as many.
_FAR = 2000
_TABLE = "merges"


def last_tenure(catalog: Catalog, name: str) -> int:
    """The highest number that ever claimed the catalog's merges under a name; 0 if none did.

    Args:
        catalog: The catalog.
        name: What it is a turn at.
    """
    if not catalog.exists(_TABLE):
        return 0
    return catalog.open(_TABLE).transaction_version(name) or 0


@dataclass(frozen=True, slots=True)
class Tenure:
    """One process's turn.

    Attributes:
        name: What it is a turn at; the same for all who compete for it.
        number: Its number: the lease's, higher than all before.
        owner: Who it is, for people.
        token: What no other has, to tell a claim of one's own from another's of the same number.
    """

    name: str
    number: int
    owner: Mapping[str, str]
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def transactions(self) -> Transactions:
        """What each commit of its work must carry."""
        return ((self.name, self.number),)

    def claim(self, catalog: Catalog, tables: Sequence[str] = (_TABLE,)) -> None:
        """Ends all earlier turns, for the tables given.

        Args:
            catalog: The catalog.
            tables: Names of the tables that the work commits to.

        Raises:
            RunFailed: If a turn of this number or a higher one has begun.
            StorageError: If the store could not be reached or refused access.
        """
        for table in tables:
            self._claim(catalog, table)

    def check(self, uri: str, handle: DeltaTable) -> None:
        """Passes the state of a table that no later turn has claimed.

        Only a commit that carries `transactions` makes this last until it is done.

        Args:
            uri: The table's, for the error.
            handle: The table.

        Raises:
            RunFailed: If one has, with who it is.
        """
        if (handle.transaction_version(self.name) or 0) > self.number:
            raise self._over(uri, handle)

    def check_now(self, catalog: Catalog) -> None:
        """Does as `check` with the present state of the merges, to spare work that is in vain."""
        self.check(catalog.table_uri(_TABLE), catalog.open(_TABLE))

    def _claim(self, catalog: Catalog, table: str) -> None:
        uri = catalog.table_uri(table)

        def change(handle: DeltaTable, again: bool) -> Change | None:
            last = handle.transaction_version(self.name) or 0
            if last < self.number:
                return _Claim(self)
            mine = again and last == self.number
            if mine and _claimant(handle, self.name).token == self.token:
                return None  # a try whose answer got lost
            raise self._over(uri, handle)

        commit(lambda: catalog.open_or_create(table), change, uri)

    def _over(self, uri: str, handle: DeltaTable) -> RunFailed:
        owner = read_through(uri, lambda: _claimant(handle, self.name)).owner
        who = ", ".join(f"{name} {value}" for name, value in owner.items())
        return RunFailed(
            uri,
            "another process took this one for dead, after a silence or by word of its cluster, and "
            f"{who or 'another process'} has taken over (turn {handle.transaction_version(self.name)}, "
            f"this one had {self.number})",
            "Nothing of this run became current. Finished tasks are kept; leave the rest to it.",
        )


@dataclass(frozen=True, slots=True)
class _Claim:
    """A commit without rows that begins a turn."""

    tenure: Tenure

    def apply(self, handle: DeltaTable) -> None:
        """Commits it."""
        import pyarrow as pa
        from deltalake import CommitProperties, Transaction, write_deltalake

        about = {"owner": dict(self.tenure.owner), "token": self.tenure.token}
        write_deltalake(
            handle,
            # The table's own, whose descriptions may be those of another release.
            pa.schema(handle.schema().to_arrow()).empty_table(),
            mode="append",
            commit_properties=CommitProperties(
                max_commit_retries=_LIBRARY_RETRIES,
                custom_metadata={self.tenure.name: json.dumps(about)},
                app_transactions=[Transaction(*pair) for pair in self.tenure.transactions],
            ),
        )


class _Claimed(Form):
    """What a claim says in a table's log, which others may have written over."""

    owner: Table[Any] = Field(default_factory=dict)
    token: str = ""


def _claimant(handle: DeltaTable, name: str) -> _Claimed:
    """Who made the last claim on a table under a name, as far as its log still says so."""
    for entry in handle.history(_FAR):
        if name in entry:
            try:
                return _Claimed.model_validate_json(entry[name])
            except ValidationError:
                break
    return _Claimed()
