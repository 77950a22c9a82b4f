"""What a GPU must give: checks of a step and of the merge of a site, against the CPU.

Promised to the bit are the labels, the sums of a step and the products that starts are tried by, and of
the lineage everything but distances. Merged rows, distances and the inertia agree to rounding. A check
says also where they are the same bits, which is not promised.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lego_ray.methods.base import SiteSolution
from lego_ray.methods.lego import Lego
from lego_ray.numerics.kmeans.partial_sums import column_quanta
from lego_ray.numerics.kmeans.rough import rough_halves
from lego_ray.numerics.msu import lengths
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool

# A few roundings of float32, as a share of the largest value.
ROUNDING = 2.0**-20
INERTIA = 1e-9
# Where the rows of a site are cut into shards.
CUTS = (0.1, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared with the CPU's.

    Attributes:
        what: Of what, and what.
        passed: Whether it is as promised.
        found: How far it is the same.
    """

    what: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Site:
    """A pool to merge.

    Attributes:
        name: Of it.
        n: MSUs.
        d: Their width.
        k: Rank of the merge.
        routes: Those that a device is asked by; the CPU is asked by the first that is in memory.
    """

    name: str
    n: int
    d: int
    k: int
    routes: tuple[str, ...]

    def pool(self) -> Pool:
        """Its MSUs, the same at each call: half of them in loose heaps, columns of unequal size."""
        generator = torch.Generator().manual_seed(self.n + self.d)
        heaps = torch.randn(self.k, self.d, generator=generator)
        where = torch.randint(self.k, (self.n,), generator=generator)
        rows = torch.randn(self.n, self.d, generator=generator)
        rows[::2] += heaps[where[::2]]
        rows *= torch.logspace(-1, 1, self.d)
        at = torch.arange(self.n)
        return Pool(rows, self.d // 2, at // 16, at % 16, lengths(rows))


def solve(site: Site, device: str, route: str, n_init: int = 10) -> SiteSolution:
    """Merges a site as a worker does.

    Args:
        site: The site.
        device: `cpu` or `cuda`.
        route: `gram`, `msu`, or `spread` for three unequal shards.
        n_init: Starts of k-means.
    """
    method, whole = Lego(n_init=n_init), site.pool().to(device)
    generator = torch.Generator().manual_seed(site.k)
    if route != "spread":
        return method.solve(whole, site.k, generator, route)
    ends = [0, *(int(share * site.n) for share in CUTS)]
    shards = [method.shard(_part(whole, *each)) for each in itertools.pairwise(ends)]
    return method.solve_spread(SpreadPool(LocalShards(shards)), site.k, generator)


def _part(pool: Pool, start: int, end: int) -> Pool:
    some = slice(start, end)
    return replace(
        pool,
        rows=pool.rows[some],
        adapters=pool.adapters[some],
        ranks=pool.ranks[some],
        lengths=pool.lengths[some],
    )


def compare_site(name: str, wanted: SiteSolution, found: SiteSolution) -> list[Check]:
    """Compares a site's merge on a device with that of the CPU.

    Args:
        name: Of the site and the route.
        wanted: The CPU's.
        found: The device's.
    """
    kept = ("adapters", "ranks", "labels", "weights")
    same = all(_equal(getattr(wanted, each), getattr(found, each)) for each in kept)
    lineage = rounded(wanted.distances, found.distances, ROUNDING)
    inertia = close(wanted.inertia, found.inertia)
    return [
        compare_labels(f"{name}: labels", wanted, found),
        replace(rounded(wanted.rows, found.rows, ROUNDING), what=f"{name}: merged rows"),
        Check(
            f"{name}: lineage",
            same and lineage.passed and inertia,
            f"distances {lineage.found}" if same else "adapters, ranks, clusters or weights differ",
        ),
    ]


def compare_labels(what: str, wanted: SiteSolution, found: SiteSolution) -> Check:
    """Compares labels, and names the first MSU whose label differs.

    Args:
        what: Of which site and route.
        wanted: The CPU's.
        found: The device's.
    """
    ours, theirs = wanted.labels, found.labels
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return Check(what, False, "not of the same MSUs")
    differ = (ours != theirs).nonzero()[:, 0].tolist()
    if not differ:
        return Check(what, True, f"the same, of {len(ours)} MSUs")
    at = differ[0]
    return Check(
        what,
        False,
        f"{len(differ)} of {len(ours)} differ; first rank {int(wanted.ranks[at])} of adapter "
        f"{int(wanted.adapters[at])}: cluster {int(ours[at])} on the CPU, {int(theirs[at])} here",
    )


def check_site(site: Site, device: str, n_init: int = 10) -> list[Check]:
    """Merges a site on the CPU, and by each of its routes on a device.

    Args:
        site: The site.
        device: `cpu` or `cuda`.
        n_init: Starts of k-means.
    """
    in_memory = next(route for route in site.routes if route != "spread")
    wanted = solve(site, "cpu", in_memory, n_init)
    return [
        check
        for route in site.routes
        for check in compare_site(
            f"{site.name}, {route}", wanted, solve(site, device, route, n_init)
        )
    ]


def check_step(site: Site, device: str) -> list[Check]:
    """Compares a step of k-means with one that takes all differences in float64 on the CPU.

    Half of the centroids are a hair beside the others, so that float32 cannot tell which is nearer.

    Args:
        site: Gives the points.
        device: `cpu` or `cuda`.
    """
    pool = site.pool()
    first = pool.rows[: site.k].double()
    nudge = 1e-5 * torch.randn(first.shape, generator=torch.Generator().manual_seed(1)).double()
    centroids, quanta = torch.cat([first, first + nudge]), column_quanta(pool.rows)
    before = torch.arange(site.n, dtype=torch.int32)[None] % (2 * site.k + 1) - 1
    nearest = torch.stack(
        [(row.double() - centroids).square_().sum(dim=1).argmin() for row in pool.rows]
    )
    there = Shard.of(pool.to(device))
    labels, [change] = work.step(there, before, centroids[None], quanta)
    wanted = work.change(Shard.of(pool), before[0], nearest.int(), len(centroids), quanta, "points")
    at = (0, site.n // 2)
    products = [
        rough_halves(pool.rows[slice(*at)].to(where), pool.d_in) for where in ("cpu", device)
    ]
    return [
        _bits(f"{site.name}: labels of a step", nearest, labels[0].long()),
        _bits(f"{site.name}: sums of a step", wanted.sums, change.sums),
        _bits(f"{site.name}: products of rounded a halves", products[0].a, products[1].a),
        _bits(f"{site.name}: products of rounded b halves", products[0].b, products[1].b),
    ]


def close(wanted: float | None, found: float | None) -> bool:
    """Whether two inertias agree to rounding."""
    return wanted is not None and found is not None and abs(found - wanted) <= INERTIA * abs(wanted)


def rounded(wanted: Tensor | None, found: Tensor | None, share: float) -> Check:
    """Compares values that may differ by rounding; the check has no name yet.

    Args:
        wanted: The CPU's.
        found: The device's, of the same shape.
        share: How far values may be apart, as a share of the largest.
    """
    if wanted is None or found is None or wanted.shape != found.shape:
        return Check("", False, "of another shape")
    if torch.equal(wanted, found):
        return Check("", True, "the same bits")
    gap = float((wanted.double() - found.double()).abs().max() / wanted.double().abs().max())
    passed = gap <= share  # not so for one that is not a number
    return Check(
        "", passed, f"apart by {gap:.1e} of the largest, {'' if passed else 'not '}rounding"
    )


def _equal(wanted: Tensor | None, found: Tensor | None) -> bool:
    return wanted is not None and found is not None and torch.equal(wanted, found)


def _bits(what: str, wanted: Tensor, found: Tensor) -> Check:
    if torch.equal(wanted, found):
        return Check(what, True, "the same bits")
    if wanted.shape != found.shape:
        return Check(what, False, "another shape")
    differ = int((wanted != found).sum())
    return Check(what, False, f"{differ} of {wanted.numel()} differ, which must be the same bits")
