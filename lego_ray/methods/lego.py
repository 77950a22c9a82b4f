"""LoRA-LEGO: k-means over a site's MSUs, centroids reweighted (arXiv 2409.16167).

The defaults are the method as published; the options are the points where its reimplementations
differ, and ways to remove the gauge freedom it leaves in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lego_ray.errors import InvalidOption
from lego_ray.methods.base import SiteSolution
from lego_ray.numerics import geometry
from lego_ray.numerics.clustering import Clustering, singletons
from lego_ray.numerics.gram import (
    GramHalves,
    compare_scaled_means,
    distances_to_means,
    gram_halves,
    gram_kmeans,
)
from lego_ray.numerics.kmeans import centroids_of, distances_to_centroids, lloyd
from lego_ray.numerics.lowrank import compare_updates
from lego_ray.numerics.pool import AdapterRows, Pool, pool_of
from lego_ray.numerics.reweight import (
    ParameterNorm,
    output_scale,
    parameter_factors,
    row_norms,
)
from lego_ray.numerics.seeding import kmeans_plus_plus

Distance = Literal["euclidean", "rank-one"]
Basis = Literal["raw", "svd"]

# A larger pool is seeded from a sample of this many rows, or of 32 a cluster if that is more.
SEED_ROWS = 2048
# Above this many rows the Gram matrix (2 x 8 bytes n^2) outgrows what it saves.
GRAM_ROWS = 8192


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
        normalise: Cluster `[a/|a| ; b/|b|]` instead of `[a ; b]`; the centroid stays the mean of the
            raw members.
        basis: `raw`, the ranks as trained, or `svd`, each adapter in the singular basis of its update.
        balance: Rescale each MSU so that its halves are equally long.
        align_signs: Flip each MSU so that the largest entry of its `a` half is positive.
        parameter_reweight: Norm of the parameter reweighting, or `none`.
        output_reweight: `source-rank`, `pool`, `none`, or a factor on the update.
    """

    n_init: int = 10
    max_iter: int = 300
    tol: float = 1e-6
    distance: Distance = "euclidean"
    normalise: bool = False
    basis: Basis = "raw"
    balance: bool = False
    align_signs: bool = False
    parameter_reweight: ParameterNorm = "inf"
    output_reweight: str | float = "source-rank"

    def __post_init__(self) -> None:
        for option, least in (("n_init", 1), ("max_iter", 1)):
            if getattr(self, option) < least:
                raise InvalidOption(
                    f"--{option.replace('_', '-')}",
                    f"{getattr(self, option)} is below {least}",
                )
        if not 0 <= self.tol < 1:
            raise InvalidOption("--tol", f"{self.tol} is not in [0, 1)")
        for option, choices in (
            ("distance", get_args(Distance)),
            ("basis", get_args(Basis)),
            ("parameter_reweight", get_args(ParameterNorm)),
        ):
            if getattr(self, option) not in choices:
                raise InvalidOption(
                    f"--{option.replace('_', '-')}",
                    f"{getattr(self, option)!r} is not one of {', '.join(choices)}",
                )
        output_scale(self.output_reweight, source_rank=1.0, n_pool=1, n_clusters=1)

    @property
    def name(self) -> str:
        """`lego`."""
        return "lego"

    def workspace_bytes(self, n: int, d: int, rank: int) -> int:
        """Most memory `solve` takes besides the pool, in bytes, for n MSUs of width d."""
        copies = 4 * n * d * (2 if self._moves_rows() else 1)
        if self._uses_gram(n):
            gram = 8 * n * n * 4 + 8 * n * rank * self.n_init * 3
        else:
            gram = 8 * SEED_ROWS * SEED_ROWS * 4 + 8 * 1024 * d * 4
        return copies + gram + 8 * rank * d * 6

    def solve(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Merges one site; see `MergeMethod.solve`."""
        pool = self._in_geometry(pool)
        halves = None
        if self._uses_gram(pool.n):
            halves = gram_halves(pool.rows, pool.d_in)
            clustering, distances = self._by_gram(halves, rank, generator)
        else:
            clustering, distances = self._by_lloyd(pool, rank, generator)
        labels = clustering.labels
        centroids = self._representatives(pool, labels)
        norm = self.parameter_reweight
        factors = parameter_factors(centroids, row_norms(pool.rows, norm), labels, norm)
        scale = output_scale(
            self.output_reweight,
            source_rank=pool.mean_rank,
            n_pool=pool.n,
            n_clusters=clustering.k,
        )
        factors *= abs(scale) ** 0.5  # half of it on each half of a row
        rows = (centroids * factors[:, None]).float()
        sign = math.copysign(1.0, scale)
        rows[:, pool.d_in :] *= sign
        if halves is None or self.distance == "rank-one":
            total = halves.squared_norm_of_sum() if halves else None
            comparison = compare_updates(rows, pool.rows, pool.d_in, total)
        else:
            comparison = compare_scaled_means(halves, labels, factors, sign)
        return SiteSolution(
            rows=rows,
            labels=labels,
            distances=distances,
            weights=1.0 / torch.bincount(labels).double()[labels],
            inertia=float(distances.square().sum()),
            iterations=clustering.iterations,
            comparison=comparison,
        )

    def _uses_gram(self, n: int) -> bool:
        """Distances between updates are known by inner products alone, whatever those cost."""
        return self.distance == "rank-one" or n <= GRAM_ROWS

    def _moves_rows(self) -> bool:
        return (
            self.basis == "svd"
            or self.balance
            or self.align_signs
            or self.normalise
            or self.distance == "rank-one"
        )

    def _in_geometry(self, pool: Pool) -> Pool:
        """The same updates, with the parts of the gauge removed that were asked for."""
        rows = pool.rows
        if self.basis == "svd":
            pool = _in_svd_basis(pool)
            rows = pool.rows
        elif self.balance or self.distance == "rank-one":
            rows = geometry.balance(rows, pool.d_in)
        if self.align_signs:
            rows = geometry.align_signs(rows, pool.d_in)
        return Pool(rows=rows, d_in=pool.d_in, adapters=pool.adapters, ranks=pool.ranks)

    def _by_gram(
        self, halves: GramHalves, rank: int, generator: torch.Generator
    ) -> tuple[Clustering, Tensor]:
        products = self._products(halves)
        n = products.shape[0]
        if rank >= n:
            clustering = singletons(n)
        else:
            sample = _sample(n, rank, generator)
            drawn = products if len(sample) == n else products[sample][:, sample]
            seeds = sample[kmeans_plus_plus(drawn, rank, self.n_init, generator)]
            clustering = gram_kmeans(products, seeds, self.max_iter, self.tol)
        return clustering, distances_to_means(products, clustering.labels)

    def _by_lloyd(
        self, pool: Pool, rank: int, generator: torch.Generator
    ) -> tuple[Clustering, Tensor]:
        points = pool.rows
        if self.normalise:
            points = geometry.normalise_halves(points, pool.d_in)
        if rank >= pool.n:
            clustering = singletons(pool.n)
        else:
            sample = _sample(pool.n, rank, generator)
            products = self._products(gram_halves(pool.rows[sample], pool.d_in))
            seeds = sample[kmeans_plus_plus(products, rank, self.n_init, generator)]
            clustering = lloyd(points, seeds, self.max_iter, self.tol)
        centroids = centroids_of(points, clustering.labels)
        return clustering, distances_to_centroids(points, clustering.labels, centroids)

    def _products(self, halves: GramHalves) -> Tensor:
        if self.normalise:
            halves = halves.normalised()
        if self.distance == "rank-one":
            return halves.rank_one()
        return halves.euclidean()

    def _representatives(self, pool: Pool, labels: Tensor) -> Tensor:
        if self.distance != "rank-one":
            return centroids_of(pool.rows, labels)
        return torch.stack(
            [
                geometry.rank_one_representative(pool.rows[labels == c], pool.d_in)
                for c in range(int(labels.max()) + 1)
            ]
        )


def _sample(n: int, rank: int, generator: torch.Generator) -> Tensor:
    """Rows to seed from, in order, shape (m,), int64. The same for every route."""
    size = max(SEED_ROWS, 32 * rank)
    if n <= size:
        return torch.arange(n)
    return torch.randperm(n, generator=generator)[:size].sort().values


def _in_svd_basis(pool: Pool) -> Pool:
    parts = []
    for adapter in torch.unique(pool.adapters).tolist():
        mine = pool.rows[pool.adapters == adapter]
        parts.append(AdapterRows.of(adapter, geometry.svd_basis(mine, pool.d_in)))
    return pool_of(parts, pool.d_in)
