"""The update nearest to all adapters, each measured by the inputs that it reads, at rank k."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor
from lego_ray.methods.output_metric import OutputMetric
from lego_ray.methods.whole import members_of
from lego_ray.numerics.decompositions.output_metric import nearest_in_input_metric
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class InputMetric(OutputMetric):
    """`W = (sum_t W_t C_t) (sum_t C_t)^-1`, cut to rank k in the metric `sum_t C_t`.

    `C_t = W_t^T W_t / ||W_t||_F^2 + I / d_in` stands for the covariance of adapter t's inputs, which
    gradients leave in the rows of its update. It is the closed form of ACE-Merging (arXiv 2603.02945),
    of which only the abstract says how it estimates `C_t`: here the trace is normalized, all adapters
    share the identity as prior, and nothing is done to the spectrum after. The same as `output_metric`,
    from the other side: a lone adapter and copies of one come back.
    """

    @property
    def name(self) -> str:
        """`input_metric`."""
        return "input_metric"

    def nearest(self, pool: Pool, rank: int) -> tuple[UpdateSvd, Tensor]:
        """The minimiser; see `OutputMetric.nearest`."""
        return nearest_in_input_metric(pool.rows, pool.d_in, members_of(pool), rank)
