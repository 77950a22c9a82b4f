"""How a merged adapter is held against its sources within a memory budget. Pure.

A site whose pool fits is compared at once. One that does not is read in blocks of adapters, each added
to a band of rows of the sum; where the bands of a site are several, its sources are read once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lego_ray.errors import InvalidOption
from lego_ray.formats.record import AdapterRecord
from lego_ray.methods.base import Route, SpreadCosts
from lego_ray.numerics.costs import MATMUL_64, Costs
from lego_ray.numerics.kmeans.partial_sums import CHUNK
from lego_ray.numerics.norms import BLOCK_VALUES
from lego_ray.planning.cutting import cut_into_tasks
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import tally_sites
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES

# Share of the budget that the band of a site's sum may take, the more the fewer times sources are read.
BAND_SHARE = 4
# Of a row apart from its values: where it is from, its norm, its place in order.
ROW_BYTES = 64


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing takes at a site, as `PoolCosts`.

    Attributes:
        rank: Largest rank of the merged adapter, which is held whole at one site.
        band_bytes: Most memory for a band of rows of the sum.
    """

    rank: int
    band_bytes: int

    @property
    def name(self) -> str:
        """`verify`."""
        return "verify"

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """One, called `whole`: the norm of the sum, and each source's product with the merged update."""
        norm = min(n * n * (d_in + d_out), 2 * n * d_in * d_out)
        products = n * min(self.rank * (d_in + d_out), 2 * d_in * d_out)
        memory = self._besides(d_in, d_out) + ROW_BYTES * n
        return [Route("whole", Costs((norm + products) / MATMUL_64, memory))]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """A block of adapters beside the merged one and a band."""
        band = 8 * d_in * self.band_rows(d_in, d_out)
        row = 4 * (d_in + d_out) + ROW_BYTES
        return SpreadCosts(row, self._besides(d_in, d_out) + band, 0)

    def bands(self, d_in: int, d_out: int) -> list[tuple[int, int]]:
        """Bounds of the bands a site's sum is made in.

        Args:
            d_in: Columns of the update.
            d_out: Rows of the update.

        Returns:
            First row and one past the last of each band, in order.
        """
        step = self.band_rows(d_in, d_out)
        return [(start, min(start + step, d_out)) for start in range(0, d_out, step)]

    def band_rows(self, d_in: int, d_out: int) -> int:
        """Rows of a band, at least one.

        Args:
            d_in: Columns of the update.
            d_out: Rows of the update.
        """
        return max(1, min(d_out, self.band_bytes // (8 * d_in)))

    def _besides(self, d_in: int, d_out: int) -> int:
        """The merged adapter, read, widened and pooled; and two chunks, or one and blocks of the sum."""
        d = d_in + d_out
        chunk, block = 8 * CHUNK, 8 * min(max(BLOCK_VALUES, d_in), d_in * d_out)
        return 16 * self.rank * d + max(2 * chunk * d, chunk * d_in + 4 * block)


def plan_comparison(
    recipe: Recipe,
    inventory: Inventory,
    weights: Sequence[float],
    merged: AdapterRecord,
    *,
    merge_id: str,
    memory_budget: int,
) -> tuple[Plan, Comparison]:
    """Plans how to compare a merged adapter with its sources.

    Args:
        recipe: What it was made by.
        inventory: Its sources.
        weights: Their weights, in the inventory's order.
        merged: The merged adapter.
        merge_id: The merge.
        memory_budget: Most bytes to take.

    Returns:
        A plan whose tasks are to be compared, not solved, and how.

    Raises:
        InvalidOption: If the budget does not hold the merged adapter and one source at a site.
    """
    adapters, rank = inventory.adapters, max(merged.ranks)
    tallies = tally_sites(adapters)
    work = Comparison(rank, max(0, memory_budget - WORKER_BYTES) // BAND_SHARE)
    groups = None
    while groups is None:
        try:
            groups = tuple(cut_into_tasks(tallies, recipe, memory_budget, work))
        except InvalidOption:
            if not work.band_bytes:
                raise
            work = Comparison(rank, work.band_bytes // 2)  # narrower bands leave room for blocks
    plan = Plan(
        recipe=recipe,
        base_model=merged.base_model,
        dtype=merged.dtype,
        format=merged.format,
        adapters=adapters,
        weights=tuple(weights),
        refused=(),
        tasks=groups,
        memory_budget=memory_budget,
        warnings=(),
        digest=merge_id,
    )
    return plan, work
