"""How alike the sources of a merge are, taken while they are compared with it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lego_ray.lazy import torch
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.similarity.inner_products import (
    WIDTH,
    cosines,
    update_products,
    update_sketches,
)
from lego_ray.planning.plan import Plan
from lego_ray.planning.task_plans import SitePlan
from lego_ray.tasks.passes import seeded

# Multiplications that all pairs of MSUs may take, over all sites; beyond, updates are sketched.
EXACT = 2e11
# Bytes of an adapter's sketch: that of all sites, and of one.
SKETCH_BYTES = 2 * 8 * WIDTH * WIDTH


class SimilarityWatch:
    """Cosines of the sources' own updates, over all sites: exact, or by sketches where pairs are many.

    Attributes:
        exact: Whether cosines are those of the updates; else they are those in expectation.
    """

    def __init__(self, plan: Plan) -> None:
        """Decides how, by the plan alone.

        Args:
            plan: Sources, sites and tasks; of sites cut into shards no two sources may be available.
        """
        sites = [site for task in plan.tasks for site in task.sites]
        pairs = sum(float(s.n_msus) ** 2 * (s.d_in + s.d_out) for s in sites)
        self.exact = pairs <= EXACT and not any(task.shards for task in plan.tasks)
        self._n = len(plan.adapters)
        width = self._n if self.exact else WIDTH * WIDTH
        self._sum = torch.zeros(self._n, width, dtype=torch.float64)

    def take(self, site: SitePlan, pool: Pool, scalings: Mapping[int, float]) -> None:
        """Adds what some sources do at a site; each source is taken once a site.

        Args:
            site: The site.
            pool: Their MSUs, scalings left out.
            scalings: Scaling of each source.
        """
        factor = torch.zeros(self._n, 1, dtype=torch.float64)
        for number, scaling in scalings.items():
            factor[number] = scaling
        if self.exact:
            self._sum += update_products(pool, self._n) * factor * factor.T
        else:
            self._sum += update_sketches(pool, self._n, seeded(site)) * factor

    def cosines(self) -> NDArray[np.float64]:
        """Cosines of all pairs, shape (T, T), sources in the plan's order."""
        products = self._sum if self.exact else self._sum @ self._sum.T
        return np.asarray(cosines(products).numpy())
