"""The update that interferes least with the adapters: SWUDI (arXiv 2606.07289) at rank k."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor
from lego_ray.methods.output_metric import OutputMetric
from lego_ray.methods.whole import members_of
from lego_ray.numerics.decompositions.interference import least_interference
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class Swudi(OutputMetric):
    """The closed form of WUDI where it is well determined, the sum elsewhere; then the first k terms.

    The update is as `least_interference` has it: of SWUDI's two filters the hard one, with as many
    directions as the participation ratio says, and not the soft one. The paper keeps the full rank. It
    has no options and no seed. A lone adapter comes back. Elsewhere updates add up, so many adapters
    make it long; see `--output-scale`.
    """

    @property
    def name(self) -> str:
        """`swudi`."""
        return "swudi"

    def nearest(self, pool: Pool, rank: int) -> tuple[UpdateSvd, Tensor]:
        """The update, and what each MSU is of its terms; see `OutputMetric.nearest`."""
        return least_interference(pool.rows, pool.d_in, members_of(pool), rank)
