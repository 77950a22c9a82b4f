"""The `trials` table: merges that a search tried and scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lego_ray.catalog.changes import Change, Rows
from lego_ray.catalog.commit import commit
from lego_ray.catalog.rows import Row, conform
from lego_ray.catalog.tables import Catalog

if TYPE_CHECKING:
    from deltalake import DeltaTable

_TABLE = "trials"


def record_trials(catalog: Catalog, study_id: str, rows: Sequence[Row]) -> None:
    """Records the trials of a study, each once: of a study that was continued, the later ones.

    Args:
        catalog: Where to.
        study_id: The study.
        rows: The rows of all of its trials, by their numbers from 0 without a gap.

    Raises:
        CatalogError: If a row does not fit the columns.
        StorageError: If the store could not be reached or refused access.
    """

    def change(handle: DeltaTable, again: bool) -> Change | None:
        del again  # a try whose answer got lost has left the number of trials
        known = handle.transaction_version(study_id) or 0
        if known >= len(rows):
            return None
        return Rows(conform(_TABLE, rows[known:]), ((study_id, len(rows)),))

    commit(lambda: catalog.open_or_create(_TABLE), change, catalog.table_uri(_TABLE))
