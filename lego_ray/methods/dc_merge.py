"""Each adapter's singular directions, equally strong, merged in those of all: DC-Merge at rank k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.lazy import torch
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.tsv import check_a_term_each
from lego_ray.methods.whole import Whole, solution_of, untrained
from lego_ray.numerics.costs import MATMUL_64, Costs, spread_fixed_bytes
from lego_ray.numerics.decompositions.cover_space import merged_in_cover
from lego_ray.numerics.decompositions.task_vectors import shared_out_terms
from lego_ray.numerics.decompositions.truncated_svd import svd_costs
from lego_ray.numerics.kmeans.lloyd import in_one_shard
from lego_ray.numerics.lineage import products_with
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class DcMerge(Whole):
    """Of each of T adapters the first k/T singular terms, merged as in `merged_in_cover`.

    It follows the authors' code (github.com/Tobeginwith/DC-Merge) with its mean as smoothing. There
    each adapter keeps its whole rank, and the merged update has the sum of the ranks; here it has rank
    k. One adapter does not come back: its values are evened out.
    """

    @property
    def name(self) -> str:
        """`dc_merge`."""
        return "dc_merge"

    def check_ranks(self, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
        """Refuses a rank below the number of adapters, of each of which a term is kept."""
        check_a_term_each(self.name, ranks, rank)

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """A decomposition of each adapter, and k x k matrices for each."""
        found = svd_costs(min(n, rank), d_in, d_out)
        adapters = max(1, n // max(rank, 1)) + 1
        d, square = d_in + d_out, rank * rank
        seconds = (adapters * square * rank * 2 + 2 * n * d * rank) / MATMUL_64
        return Costs(
            adapters * found.seconds + seconds,
            found.workspace_bytes
            + 8 * (4 * adapters * square + 4 * n * rank + 4 * rank * d)
            + spread_fixed_bytes(d, rank, 1)
            + 4 * n * d,
        )

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The merged terms; see `Whole.merged`.

        An MSU has its share of an adapter's term in all that is made of the term.
        """
        terms, owners = shared_out_terms(in_one_shard(self.shard(pool)), rank)
        if not len(terms):
            return untrained(pool)
        terms = terms.to(pool.rows.device)
        covered = merged_in_cover(terms, owners.to(terms.device), pool.d_in)
        norms = terms[:, : pool.d_in].square().sum(dim=1)
        products = products_with(pool.rows, pool.d_in, terms) / norms.square()
        products *= (pool.adapters[:, None] == owners).to(products)
        return solution_of(pool, covered.rows.float(), products @ covered.parts)
