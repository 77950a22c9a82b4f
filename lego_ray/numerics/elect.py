"""TIES' election over tensors that are made one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lego_ray.numerics.sparsify import keep_largest
from lego_ray.numerics.stacks import Election

# Time to trim and count a value, in passes over it; finding the least that stays is most of that.
PASSES = 55


def prevailing(
    tensors: Callable[[], Iterable[Tensor]], density: float, election: Election
) -> Tensor:
    """Trims tensors, elects each entry's sign, and takes the mean of those that agree.

    TIES-Merging (arXiv 2306.01708, section 3).

    Args:
        tensors: Makes the tensors, all of one shape, float64; called once for the votes and once for
            the mean, so that they need never be in memory together.
        density: Share of the entries of each that stay.
        election: How signs are elected; a tie is positive.
    """

    def trimmed() -> Iterator[Tensor]:
        yield from (t if density == 1 else keep_largest(t, density) for t in tensors())

    votes = _sum(t if election == "total" else t.sign() for t in trimmed())
    sign = torch.where(votes >= 0, 1.0, -1.0)
    sums, counts = torch.zeros_like(votes), torch.zeros_like(votes)
    for tensor in trimmed():
        agree = tensor * sign > 0
        sums += torch.where(agree, tensor, 0.0)
        counts += agree
    return sums / counts.clamp(min=1)


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    total = next(tensors).clone()
    for tensor in tensors:
        total += tensor
    return total
