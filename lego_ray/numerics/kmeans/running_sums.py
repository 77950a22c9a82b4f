"""A site's clusters as running sums: adapters go in and out without the others being read.

Everything depends on the fit, which is a merge that read all its adapters, and on which adapters are in
now; nothing on the order they came and went in:

- centroids to assign to are the fit's, and frozen. So where an MSU goes is a function of the fit and of
  the MSU alone; one of the fit's own keeps the cluster it had there.
- sums are whole numbers of the fit's grid, so what goes out takes away exactly what it brought.
- a cluster that holds just what it held in the fit has the fit's own numbers, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import ShapeMismatch, UpdateImpossible
from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.assign import assign, distances_to_own
from lego_ray.numerics.kmeans.partial_sums import chunks, quanta_of
from lego_ray.numerics.kmeans.reweight import ParameterNorm, row_norms
from lego_ray.numerics.msu import squared_norms

# Grid units a sum may have. The fit's take 2^52 at most, so there is room for a thousand times as many
# MSUs, or for ones a thousand times as large.
LARGEST_SUM = 2.0**62


@dataclass(frozen=True, slots=True)
class Members:
    """Some MSUs of a site, and where they are.

    Attributes:
        adapters: Number of each one's adapter, shape (n,), int64.
        ranks: Its rank there, shape (n,), int64.
        clusters: Its cluster of the fit's, shape (n,), int64.
        distances: To the fit's centroid of that, shape (n,), float64.
        norms: Its norm for the parameter reweighting, shape (n,), float64.
        squares: Squared norm of its adapter's update at the site, the same for all MSUs of that, shape
            (n,), float64; 0 if the merge's scale does not depend on it.
    """

    adapters: Tensor
    ranks: Tensor
    clusters: Tensor
    distances: Tensor
    norms: Tensor
    squares: Tensor

    @classmethod
    def none(cls) -> Members:
        """No MSUs."""
        whole, real = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
        return cls(whole, whole, whole, real, real, real)

    @property
    def n(self) -> int:
        """How many."""
        return self.adapters.shape[0]

    def select(self, which: Tensor) -> Members:
        """Those of a mask or of positions."""
        return Members(
            self.adapters[which],
            self.ranks[which],
            self.clusters[which],
            self.distances[which],
            self.norms[which],
            self.squares[which],
        )

    def joined(self, other: Members) -> Members:
        """These, then the others."""
        return Members(
            torch.cat([self.adapters, other.adapters]),
            torch.cat([self.ranks, other.ranks]),
            torch.cat([self.clusters, other.clusters]),
            torch.cat([self.distances, other.distances]),
            torch.cat([self.norms, other.norms]),
            torch.cat([self.squares, other.squares]),
        )


@dataclass(frozen=True, slots=True)
class SiteFit:
    """What a merge that read everything leaves of a site.

    Attributes:
        sums: Sum of each cluster's MSUs, shape (k, d), float64, multiples of the quanta.
        quanta: The grid, shape (d,), float64, powers of two.
        alone: The MSUs that are a cluster by themselves, in the clusters' order, shape (m, d), float32.
        totals: Sum of the norms of each cluster's MSUs as the merge added them up, shape (k,), float64.
        members: All its MSUs.
    """

    sums: Tensor
    quanta: Tensor
    alone: Tensor
    totals: Tensor
    members: Members

    @property
    def counts(self) -> Tensor:
        """MSUs of each cluster, shape (k,), int64, none 0."""
        return torch.bincount(self.members.clusters, minlength=self.sums.shape[0])

    def centroids(self) -> Tensor:
        """Means of the clusters, shape (k, d), float64; of a cluster of one it is that row."""
        counts = self.counts
        means = self.sums / counts.double()[:, None]
        means[counts == 1] = self.alone.double()
        return means


@dataclass(frozen=True, slots=True)
class RunningSite:
    """A site now: the fit, and what came and went since.

    Attributes:
        fit: The fit.
        added: MSUs that were not in the fit.
        changed: Clusters that hold others than in the fit, ascending, shape (c,), int64.
        delta: What their sums have more than in the fit, in grid units, shape (c, d), int64.
    """

    fit: SiteFit
    added: Members
    changed: Tensor
    delta: Tensor

    @classmethod
    def of(cls, fit: SiteFit) -> RunningSite:
        """A site as the fit left it."""
        nothing = torch.empty(0, fit.sums.shape[1], dtype=torch.int64)
        return cls(fit, Members.none(), torch.empty(0, dtype=torch.int64), nothing)


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters of a site that are not empty, in the fit's order.

    Attributes:
        centroids: Means, shape (k', d), float64.
        counts: MSUs of each, shape (k',), int64.
        totals: Sums of their norms, shape (k',), float64.
        inertia: Sum of squared distances to the means, in squared parameter units.
        members: Their MSUs, with the cluster's place among these.
    """

    centroids: Tensor
    counts: Tensor
    totals: Tensor
    inertia: float
    members: Members

    def source_squares(self) -> list[float]:
        """`Members.squares` of each adapter, in the adapters' order."""
        import numpy as np  # torch has no such unique

        _, first = np.unique(self.members.adapters.numpy(), return_index=True)
        squares: list[float] = self.members.squares.numpy()[first].tolist()
        return squares


def running_grid(peaks: Tensor, n: int) -> Tensor:
    """The grid of a fit, on which the sums of a merge lie as they are.

    It is `quanta_of` except for columns of zeros, whose sums lie on any grid: theirs is that of the
    largest column, so that what comes later is not rounded away there.

    Args:
        peaks: The pool's `column_peaks`, shape (d,).
        n: Rows of the pool.
    """
    quanta = quanta_of(peaks, n)
    widest = quanta_of(peaks.max().reshape(1), n)
    return torch.where(peaks > 0, quanta, widest)


def placed(
    fit: SiteFit, adapter: int, rows: Tensor, norm: ParameterNorm, square: float = 0.0
) -> Members:
    """Where an adapter's MSUs go: each to the nearest of the fit's centroids.

    Args:
        fit: The fit.
        adapter: Number to give the adapter.
        rows: Its MSUs, shape (r, d), float32, row i of rank i.
        norm: Norm of the parameter reweighting.
        square: Squared norm of its update, if that is kept.
    """
    centroids = fit.centroids()
    clusters = assign(rows, squared_norms(rows), centroids[None])[0]
    n = rows.shape[0]
    return Members(
        torch.full((n,), adapter),
        torch.arange(n),
        clusters,
        distances_to_own(rows, clusters, centroids).sqrt(),
        row_norms(rows, norm),
        torch.full((n,), square, dtype=torch.float64),
    )


@dataclass(frozen=True, slots=True)
class Moved:
    """Rows that come into a site's clusters, or go out of them.

    Attributes:
        rows: Shape (r, d), float32.
        clusters: Shape (r,), int64.
        sign: 1 for those that come, -1 for those that go.
    """

    rows: Tensor
    clusters: Tensor
    sign: int


def moved(site: RunningSite, present: Tensor, added: Members, rows: Sequence[Moved]) -> RunningSite:
    """A site after adapters came and went.

    Args:
        site: The site before.
        present: Whether each adapter of the fit is in now, shape (F,), bool.
        added: The MSUs of adapters outside the fit that are in now, numbered as they are to be kept.
        rows: What comes and goes.

    Raises:
        UpdateImpossible: If a value is too large for the sums to hold.
        ShapeMismatch: If the rows are not those that `present` and `added` differ by.
    """
    fit = site.fit
    k, d = fit.sums.shape
    units = torch.zeros(k, d, dtype=torch.int64)
    units[site.changed] = site.delta
    most = float((fit.sums / fit.quanta).abs().max())
    for each in rows:
        for part in chunks(each.rows.shape[0]):
            scaled = torch.round(each.rows[part].double() / fit.quanta)
            more = float(scaled.abs().sum(dim=0).max()) + float(units.abs().max())
            if not most + more < LARGEST_SUM:
                raise UpdateImpossible(
                    "the running sums",
                    "an adapter's values are too large compared with those merged first",
                    "Merge all of them again with --refit.",
                )
            units.index_add_(0, each.clusters[part], scaled.long(), alpha=each.sign)
    touched = torch.zeros(k, dtype=torch.bool)
    touched[fit.members.clusters[~present[fit.members.adapters]]] = True
    touched[added.clusters] = True
    if bool(units[~touched].any()):
        raise ShapeMismatch("moved", "the values to remove are not those that were added")
    changed = touched.nonzero()[:, 0]
    return replace(site, added=added, changed=changed, delta=units[changed])


def clusters_of(site: RunningSite, present: Tensor) -> Clusters:
    """The clusters of a site now.

    With c a cluster's old centroid and mu its new one, `sum |x - mu|^2 = sum |x - c|^2 - n |c - mu|^2`,
    so the inertia is known without the rows.

    Args:
        site: The site, of which an adapter is in.
        present: Whether each adapter of the fit is in, shape (F,), bool.
    """
    fit = site.fit
    k = fit.sums.shape[0]
    members = fit.members.select(present[fit.members.adapters])
    numbered = replace(site.added, adapters=site.added.adapters + present.shape[0])
    members = members.joined(numbered)
    counts = torch.bincount(members.clusters, minlength=k)
    old = fit.centroids()
    centroids, totals = old.clone(), fit.totals.clone()
    squares = members.distances.square().tolist()
    shifts: list[float] = []
    for at, cluster in enumerate(site.changed.tolist()):
        n = int(counts[cluster])
        if not n:
            continue
        units = torch.round(fit.sums[cluster] / fit.quanta).long() + site.delta[at]
        centroids[cluster] = units.double() * fit.quanta / n
        totals[cluster] = math.fsum(members.norms[members.clusters == cluster].tolist())
        shifts.append(-n * float((centroids[cluster] - old[cluster]).square().sum()))
    there = counts > 0
    place = torch.cumsum(there, 0) - 1
    return Clusters(
        centroids=centroids[there],
        counts=counts[there],
        totals=totals[there],
        inertia=max(math.fsum([*squares, *shifts]), 0.0),
        members=replace(members, clusters=place[members.clusters]),
    )
