"""Where the MSUs of a large merge went: written as results come, and not in memory until the end."""

from __future__ import annotations

from lego_ray.catalog.msu_files import MsuFiles, MsuTarget
from lego_ray.catalog.msus import FILE_ROWS
from lego_ray.catalog.tables import Catalog
from lego_ray.output.catalog_rows import msus_of, without_lineage
from lego_ray.output.write import manifest_at
from lego_ray.planning.plan import Plan
from lego_ray.storage.base import Store
from lego_ray.tasks.values import TaskResult

# A merge with fewer MSUs writes them at its end, in one file.
LARGE = FILE_ROWS


class Lineage:
    """The lineage of one plan's sites.

    Attributes:
        files: Where it is written; None if results keep it, or nobody wants it.
    """

    def __init__(self, plan: Plan, store: Store, catalog: Catalog | None) -> None:
        """Writes nothing yet.

        Args:
            plan: The plan that is run.
            store: The output.
            catalog: Where the merge will be recorded, or None.
        """
        n_msus = sum(site.n_msus for task in plan.tasks for site in task.sites)
        # Running sums need it. A merge whose publishing was begun may get another id; see `as_begun`.
        self._leaves = n_msus >= LARGE and not plan.recipe.updatable and manifest_at(store) is None
        self.files: MsuFiles | None = None
        if self._leaves and catalog is not None:
            ids = [adapter.adapter_id for adapter in plan.adapters]
            self.files = MsuFiles(catalog, plan.digest, ids)

    def taken(self, result: TaskResult) -> TaskResult:
        """A result without its lineage, if the merge is large; as it is otherwise.

        Args:
            result: A result that is kept at the output.

        Raises:
            CatalogError: If another program changed the table so that rows cannot be added.
            StorageError: If the catalog's store could not be reached or refused access.
        """
        if not self._leaves:
            return result
        if self.files is not None:
            self.files.adopt(result.rows)
            self.files.add(msus_of(result.sites))  # none if its worker wrote them
        return without_lineage(result)

    def target(self) -> MsuTarget | None:
        """What lets workers write the lineage of a large task; None if it is not written early.

        Raises:
            CatalogError: As by `taken`.
            StorageError: As by `taken`.
        """
        return None if self.files is None else self.files.target()
