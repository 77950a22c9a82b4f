"""The lego method on running sums: what a merge leaves for `update`, and what is made of it."""

from __future__ import annotations

from lego_ray.errors import InvalidOption
from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import MergeMethod, SiteSolution
from lego_ray.methods.lego import Lego
from lego_ray.methods.names import ADAPTIVE
from lego_ray.methods.scaling import SOURCE_NORM, SUM_FIT, parts
from lego_ray.methods.sources_of_site import source_squares
from lego_ray.numerics.kmeans.lloyd import cluster_sums, in_one_shard, pool_peaks
from lego_ray.numerics.kmeans.reweight import norm_totals
from lego_ray.numerics.kmeans.running_sums import (
    Clusters,
    Members,
    RunningSite,
    SiteFit,
    clusters_of,
    running_grid,
)
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.spread import SpreadPool

FLAG = "--updatable"


def check_updatable(
    method: MergeMethod, output_scale: str | float, full_weights: str, spectrum: str | float = 1.0
) -> None:
    """Refuses a merge that running sums are not enough for.

    Args:
        method: The merge's method.
        output_scale: As in `Recipe`.
        full_weights: As in `Recipe`.
        spectrum: As in `Recipe`.

    Raises:
        InvalidOption: Naming what stands in the way.
    """
    problem = ""
    if not isinstance(method, Lego):
        problem = f"the {method.name} method needs every adapter at once"
    elif method.distance != "euclidean":
        problem = f"--distance {method.distance} needs every MSU of a cluster at once"
    elif method.normalize:
        problem = (
            "--normalize clusters points that it does not average, so no running sums are kept"
        )
    elif parts(output_scale)[0] == SUM_FIT:
        problem = f"--output-scale {output_scale} measures every adapter against the merged one"
    elif parts(output_scale)[0] == ADAPTIVE:
        problem = f"--output-scale {output_scale} measures every adapter against the others"
    elif spectrum == ADAPTIVE:
        problem = f"--spectrum {spectrum} measures every adapter against the others"
    elif full_weights.startswith("keep"):
        problem = "full weights that are kept depend on their adapter"
    elif full_weights in ("sum", "average"):
        problem = f"--full-weights {full_weights} needs the differences of every adapter at once"
    if problem:
        raise InvalidOption(
            FLAG, problem, "Leave out --updatable, and merge again when adapters change."
        )


def site_fit(
    method: Lego,
    pool: Pool | SpreadPool,
    solution: SiteSolution,
    output_scale: str | float = 1.0,
) -> SiteFit:
    """What a solved site leaves for later.

    One pass over the pool, to the same bits whatever holds it.

    Args:
        method: The method that solved it, on vectors as they are.
        pool: What it solved.
        solution: The result; its MSUs in canonical order.
        output_scale: The merge's, which may depend on the sources' norms.
    """
    squares = torch.zeros(len(solution.adapters), dtype=torch.float64)
    if parts(output_scale)[0] == SOURCE_NORM:
        known = source_squares(pool)
        found = [known[number] for number in solution.adapters.tolist()]
        squares = torch.tensor(found, dtype=torch.float64)
    if isinstance(pool, Pool):
        pool = in_one_shard(method.shard(pool))
    labels, distances = solution.labels, solution.distances
    assert labels is not None  # as the lego method gives them
    assert distances is not None
    norms = pool.gather(list(pool.shards.map(work.norms, method.parameter_reweight)))
    quanta = running_grid(pool_peaks(pool, "rows"), pool.n)
    counts = torch.bincount(labels)
    k = len(counts)
    alone = (counts[labels] == 1).nonzero()[:, 0]
    alone = alone[torch.argsort(labels[alone])]
    return SiteFit(
        sums=cluster_sums(pool, labels, "rows", quanta).sums,
        quanta=quanta,
        alone=pool.take(alone, "rows"),
        totals=norm_totals(norms, labels, k),
        members=Members(solution.adapters, solution.ranks, labels, distances, norms, squares),
    )


def derived(method: Lego, site: RunningSite, present: Tensor, d_in: int) -> tuple[Tensor, Clusters]:
    """The merged rows of a site that was fitted, with the adapters that are in now.

    With those of the fit, they are the fit's to the last bit.

    Args:
        method: The method, with its options.
        site: The site.
        present: Whether each adapter of the fit is in, shape (F,), bool.
        d_in: Length of the `a` half.

    Returns:
        Rows `[a' ; b']` before the merge's own scale, shape (k', d), float32; and their clusters.
    """
    found = clusters_of(site, present)
    mean_rank = found.members.n / int(torch.unique(found.members.adapters).numel())
    rows, _, _ = method.reweighted(found.centroids, found.totals, found.counts, mean_rank, d_in)
    return rows, found
