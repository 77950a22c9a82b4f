"""LoRA-LEGO: k-means over a site's MSUs, centroids reweighted (arXiv 2409.16167).

The defaults are the method as published; the options are the points where its reimplementations
differ, and ways to remove the gauge freedom it leaves in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import Route, SiteSolution, SpreadCosts
from lego_ray.methods.names import METHODS, check_options
from lego_ray.numerics.costs import (
    gram_costs,
    msu_costs,
    sample_rows,
    search_costs,
    spread_fixed_bytes,
    spread_row_bytes,
)
from lego_ray.numerics.decompositions import gauge
from lego_ray.numerics.kmeans.clustering import Clustering, singletons
from lego_ray.numerics.kmeans.compare_means import cluster_parts, compare_scaled_means
from lego_ray.numerics.kmeans.gram import distances_by_products, gram_halves
from lego_ray.numerics.kmeans.lloyd import (
    cluster,
    cluster_means,
    distances_to_means,
    in_one_shard,
    means_of,
    rough_products,
)
from lego_ray.numerics.kmeans.reweight import (
    ParameterNorm,
    norm_totals,
    output_scale,
    parameter_factors,
    row_norms,
)
from lego_ray.numerics.kmeans.rough import RoughHalves
from lego_ray.numerics.kmeans.search import search
from lego_ray.numerics.norms import UpdateComparison, compare_updates
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard, norms
from lego_ray.numerics.shards.spread import SpreadPool

Distance = Literal["euclidean", "rank-one"]
Basis = Literal["raw", "svd"]

_DEFAULTS = METHODS["lego"].options
# Multiply-adds of a comparison with the sum that float64 has done in a few milliseconds.
FEW_PRODUCTS = 1 << 27


@dataclass(frozen=True, slots=True)
class Lego:
    """LoRA-LEGO with its options.

    Attributes:
        n_init: Restarts of k-means; the one of least inertia is kept.
        max_iter: Most Lloyd steps a restart takes.
        tol: Relative gain in inertia at which a restart stops.
        distance: What k-means compares: `euclidean`, the MSUs as vectors; `rank-one`, the balanced
            updates `b a^T` themselves, with the top singular triplet of a cluster's mean update as its
            representative.
        normalize: Cluster `[a/|a| ; b/|b|]` instead of `[a ; b]`; the centroid stays the mean of the
            raw members.
        basis: `raw`, the ranks as trained, or `svd`, each adapter in the singular basis of its update.
        balance: Rescale each MSU so that its halves are equally long.
        align_signs: Flip each MSU so that the largest entry of its `a` half is positive.
        parameter_reweight: Norm of the parameter reweighting, or `none`.
        output_reweight: `source-rank`, `pool`, `none`, or a factor on the update.
    """

    n_init: int = _DEFAULTS["n_init"]
    max_iter: int = _DEFAULTS["max_iter"]
    tol: float = _DEFAULTS["tol"]
    distance: Distance = _DEFAULTS["distance"]
    normalize: bool = _DEFAULTS["normalize"]
    basis: Basis = _DEFAULTS["basis"]
    balance: bool = _DEFAULTS["balance"]
    align_signs: bool = _DEFAULTS["align_signs"]
    parameter_reweight: ParameterNorm = _DEFAULTS["parameter_reweight"]
    output_reweight: str | float = _DEFAULTS["output_reweight"]

    def __post_init__(self) -> None:
        check_options(self)
        output_scale(self.output_reweight, source_rank=1.0, n_pool=1, n_clusters=1)

    @property
    def name(self) -> str:
        """`lego`."""
        return "lego"

    def check_ranks(self, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
        """Any rank will do."""

    def prepare(self, rows: Tensor, d_in: int) -> Tensor:
        """The same update, with the parts of the gauge removed that were asked for."""
        if self.basis == "svd":
            rows = gauge.svd_basis(rows, d_in)
        elif self.balance or self.distance == "rank-one":
            rows = gauge.balance(rows, d_in)
        return gauge.align_signs(rows, d_in) if self.align_signs else rows

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """`gram`, with the products of all MSUs, and `msu`, which needs less memory."""
        k = min(rank, n)
        wide = self.distance == "rank-one"
        gram = Route("gram", gram_costs(n, d_in + d_out, k, self.n_init, wide=wide))
        if wide:  # distances between updates are known by products alone
            return [gram]
        msu = Route("msu", msu_costs(n, d_in, d_out, k, self.n_init))
        if self.normalize:  # the points are another matrix
            points = 4 * n * (d_in + d_out)
            gram, msu = (
                Route(
                    each.name,
                    replace(each.costs, workspace_bytes=each.costs.workspace_bytes + points),
                )
                for each in (gram, msu)
            )
        if sample_rows(n, k) < n:  # the products of all rows are not needed
            return [msu]
        return [gram, msu]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """Shards work in MSU space; distances between updates need all pairs of them."""
        if self.distance == "rank-one":
            return None
        k, d = min(rank, n), d_in + d_out
        fixed = spread_fixed_bytes(d, k, 1)
        row = 4 * d * (2 if self.normalize else 1) + spread_row_bytes(k, 1)
        search = search_costs(sample_rows(n, k), d, k, self.n_init).workspace_bytes
        return SpreadCosts(row, fixed, fixed + n * spread_row_bytes(k, 1) + search)

    def shard(self, pool: Pool) -> Shard:
        """A shard whose points are its MSUs, or those normalized."""
        return Shard.of(pool, self._points(pool.rows, pool.d_in))

    def solve(
        self, pool: Pool, rank: int, generator: torch.Generator, route: str = ""
    ) -> SiteSolution:
        """Merges one site; see `MergeMethod.solve`."""
        n, d_in, d_out = pool.n, pool.d_in, pool.rows.shape[1] - pool.d_in
        route = route or self.routes(n, d_in, d_out, rank)[0].name
        if self.distance == "rank-one":
            return self._by_updates(pool.in_order(), rank, generator)
        spread = in_one_shard(self.shard(pool))
        if route == "gram":
            return self._solve(spread, rank, generator, pool.rows)
        return self._solve(spread, rank, generator)

    def solve_spread(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Merges one site in shards; see `MergeMethod.solve_spread`."""
        return self._solve(pool, rank, generator)

    def _solve(
        self,
        pool: SpreadPool,
        rank: int,
        generator: torch.Generator,
        in_memory: Tensor | None = None,
    ) -> SiteSolution:
        """Merges one site; what it is compared with needs less time if all rows are in memory."""
        clustering, of_points, rough = self._clusters(pool, rank, generator)
        labels = clustering.labels
        means = cluster_means(pool, labels, "rows") if self.normalize else of_points
        rows, factors, sign = self._reweight(
            means,
            pool.gather(list(pool.shards.map(norms, self.parameter_reweight))),
            labels,
            pool.mean_rank,
            pool.d_in,
        )
        comparison: UpdateComparison | None = None
        if in_memory is None:
            comparison = pool.compare(rows)
        else:
            many = pool.n**2 * pool.width > FEW_PRODUCTS
            if many and rough is not None and len(rough.a) == pool.n:
                if self.normalize:  # the products known are of other rows
                    rough = rough_products(pool, torch.arange(pool.n), "rows")
                parts = cluster_parts(pool, labels, means)
                comparison = compare_scaled_means(
                    rough, parts, labels, means, pool.d_in, factors, sign
                )
            if comparison is None:
                here = in_memory.device
                comparison = compare_updates(rows.to(here), in_memory, pool.d_in)
        distances = distances_to_means(pool, labels, of_points)
        return _solution(pool, rows, clustering, distances, comparison)

    def _clusters(
        self, pool: SpreadPool, rank: int, generator: torch.Generator
    ) -> tuple[Clustering, Tensor, RoughHalves | None]:
        """The clusters of a pool, the means of their points, and products if those were needed."""
        if rank >= pool.n:
            found = singletons(pool.n)
            return found, cluster_means(pool, found.labels, "points"), None
        found, sums, rough = cluster(pool, rank, self.n_init, generator, self.max_iter, self.tol)
        return found, means_of(pool, found.labels, "points", sums), rough

    def _by_updates(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The method on inner products of updates, for a pool in canonical order."""
        halves = gram_halves(pool.rows, pool.d_in)
        products = halves.rank_one().cpu()
        if rank >= pool.n:
            clustering = singletons(pool.n)
        else:
            clustering = search(products, rank, self.n_init, generator, self.max_iter, self.tol)
        labels = clustering.labels.to(pool.rows.device)
        centroids = torch.stack(
            [
                gauge.rank_one_representative(pool.rows[labels == c], pool.d_in)
                for c in range(int(labels.max()) + 1)
            ]
        )
        member_norms = row_norms(pool.rows, self.parameter_reweight)
        mean_rank = pool.n / int(torch.unique(pool.adapters).numel())
        rows, _, _ = self._reweight(centroids, member_norms, labels, mean_rank, pool.d_in)
        total = halves.squared_norm_of_sum()
        return _solution(
            pool,
            rows,
            clustering,
            distances_by_products(products, clustering.labels),
            compare_updates(rows, pool.rows, pool.d_in, total),
        )

    def _points(self, rows: Tensor, d_in: int) -> Tensor:
        return gauge.normalize_halves(rows, d_in) if self.normalize else rows

    def _reweight(
        self, centroids: Tensor, norms: Tensor, labels: Tensor, mean_rank: float, d_in: int
    ) -> tuple[Tensor, Tensor, float]:
        """`reweighted`, from the norm and the cluster of each MSU."""
        totals = norm_totals(norms, labels, centroids.shape[0])
        counts = torch.bincount(labels, minlength=centroids.shape[0])
        return self.reweighted(centroids, totals, counts, mean_rank, d_in)

    def reweighted(
        self, centroids: Tensor, totals: Tensor, counts: Tensor, mean_rank: float, d_in: int
    ) -> tuple[Tensor, Tensor, float]:
        """Merged rows, the factor on each centroid, and the sign of the merged update.

        Args:
            centroids: Shape (k, d), float64.
            totals: Sum of the norms of each one's MSUs, shape (k,), float64.
            counts: How many those are, shape (k,), int64.
            mean_rank: Mean rank of the adapters that have the site.
            d_in: Length of the `a` half.
        """
        factors = parameter_factors(centroids, totals, counts, self.parameter_reweight)
        scale = output_scale(
            self.output_reweight,
            source_rank=mean_rank,
            n_pool=int(counts.sum()),
            n_clusters=centroids.shape[0],
        )
        factors *= abs(scale) ** 0.5  # half of it on each half of a row
        rows = (centroids * factors[:, None]).float()
        sign = math.copysign(1.0, scale)
        rows[:, d_in:] *= sign
        return rows, factors, sign


def _solution(
    pool: Pool | SpreadPool,
    rows: Tensor,
    clustering: Clustering,
    distances: Tensor,
    comparison: UpdateComparison,
) -> SiteSolution:
    labels = clustering.labels.cpu()
    distances = distances.cpu()
    return SiteSolution(
        adapters=pool.adapters,
        ranks=pool.ranks,
        rows=rows.cpu(),
        labels=labels,
        distances=distances,
        weights=1.0 / torch.bincount(labels).double()[labels],
        inertia=math.fsum(distances.square().tolist()),
        iterations=clustering.iterations,
        comparison=comparison,
    )
