"""Looks through all tables, and puts right what can be put right, one commit a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lego_ray.catalog.changes import Change
from lego_ray.catalog.commit import commit
from lego_ray.catalog.repair.adapter_rows import diagnose_adapters
from lego_ray.catalog.repair.detail_rows import Sites, diagnose_msus, diagnose_sites
from lego_ray.catalog.repair.faults import Diagnosis, Fault, Outputs, plural
from lego_ray.catalog.repair.group_rows import diagnose_groups
from lego_ray.catalog.repair.merge_rows import diagnose_merges
from lego_ray.catalog.repair.states import State, state_of
from lego_ray.catalog.repair.trial_rows import diagnose_trials
from lego_ray.catalog.tables import Catalog

if TYPE_CHECKING:
    from deltalake import DeltaTable

# What the others are held against comes first.
ORDER = ("merges", "adapters", "merge_sites", "msus", "groups", "trials")


class _Look:
    """One look at all tables; what was found in those before is what the next are held against."""

    def __init__(self, catalog: Catalog, outputs: Outputs, *, deep: bool) -> None:
        self._catalog = catalog
        self._deep = deep
        self._outputs = outputs
        self._merges: list[dict[str, Any]] = []
        self._sites: Sites = {}

    def at(self, table: str, state: State) -> Diagnosis:
        """Looks at one table, in `ORDER`."""
        if table == "merges":
            diagnosis, right = diagnose_merges(self._catalog, state, self._outputs, deep=self._deep)
            self._merges = list({row["merge_id"]: row for row in right.to_pylist()}.values())
            return diagnosis
        if table == "adapters":
            return diagnose_adapters(
                self._catalog, state, self._merges, self._outputs, deep=self._deep
            )
        if table == "merge_sites":
            diagnosis, self._sites = diagnose_sites(
                self._catalog, state, self._merges, deep=self._deep
            )
            return diagnosis
        if table == "msus":
            return diagnose_msus(self._catalog, state, self._merges, self._sites, deep=self._deep)
        if table == "trials":
            return diagnose_trials(self._catalog, state, deep=self._deep)
        made_of = {row["merge_id"]: row["adapter_ids"] for row in self._merges}
        return diagnose_groups(self._catalog, state, made_of, deep=self._deep)

    def without(self, table: str) -> Diagnosis:
        """What is lost with a table that is not there."""
        if table == "adapters":
            return diagnose_adapters(self._catalog, None, self._merges, self._outputs, deep=False)
        column = {"merge_sites": "n_sites", "msus": "n_msus"}.get(table, "")
        lost = [row for row in self._merges if row.get(column)]
        return Diagnosis(
            table,
            [
                Fault(
                    table,
                    f"merge_id {row['merge_id'][:12]}",
                    f"the table does not exist, but {plural(row[column], 'row')} were recorded",
                    "",
                    row["merge_id"],
                )
                for row in lost
            ],
        )


def diagnose(catalog: Catalog, outputs: Outputs, *, deep: bool = True) -> list[Diagnosis]:
    """Looks at each table, and changes nothing.

    Args:
        catalog: The catalog.
        outputs: What the store says of the merges' outputs.
        deep: Whether to compare all values with the tables' histories and with one another too.

    Raises:
        CatalogError: If a table cannot be read.
        StorageError: If the store could not be reached or refused access.
    """
    look = _Look(catalog, outputs, deep=deep)
    found: list[Diagnosis] = []
    for table in ORDER:
        if catalog.exists(table):
            found.append(look.at(table, state_of(catalog, table, catalog.open(table))))
        else:
            found.append(look.without(table))
    return found


def repair(catalog: Catalog, outputs: Outputs) -> list[Diagnosis]:
    """Puts right what can be put right, each table in one commit.

    Each commit is computed from one state of its table. If anything was committed there meanwhile, it is
    computed again.

    Args:
        catalog: The catalog.
        outputs: What the store says of the merges' outputs.

    Returns:
        What was found and done, of each table.

    Raises:
        CatalogVersionMismatch: If a table is of another schema version.
        CatalogError: If a table cannot be read, or other writers were always faster.
        StorageError: If the store could not be reached or refused access.
    """
    look = _Look(catalog, outputs, deep=True)
    return [_repair(catalog, table, look) for table in ORDER]


def _repair(catalog: Catalog, table: str, look: _Look) -> Diagnosis:
    done: Diagnosis | None = None

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal done
        found = look.at(table, state_of(catalog, table, handle))
        if done is None or found.change is not None or not again:
            done = found
        return found.change

    if not catalog.exists(table):
        found = look.without(table)
        if found.change is None:
            return found
    commit(lambda: catalog.open_or_create(table), change, catalog.table_uri(table))
    return done or Diagnosis(table)
