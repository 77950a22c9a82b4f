"""Random drops from tensors that are made again for every pass."""

from __future__ import annotations

import torch
from torch import Tensor

from lego_ray.numerics.elect import prevailing, thinned, total


def tensors(order: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [
        (t + 1) * torch.randn(40, 100, generator=generator, dtype=torch.float64) for t in range(3)
    ]
    return [made[t] for t in order]


def test_a_draw_keeps_its_share_grown_to_the_same_mean() -> None:
    whole = tensors([0, 1, 2])
    left = list(thinned(lambda: whole, 0.3, 11)())
    for before, after in zip(whole, left, strict=True):
        stayed = after != 0
        assert torch.equal(after[stayed], before[stayed] / 0.3)
        # 4,000 draws: five standard errors of the share are 0.036.
        assert abs(float(stayed.double().mean()) - 0.3) < 0.036
    assert not torch.equal(left[0] != 0, left[1] != 0)


def test_every_pass_and_every_order_drops_the_same() -> None:
    left = thinned(lambda: tensors([0, 1, 2]), 0.3, 11)
    first, again = list(left()), list(left())
    turned = list(thinned(lambda: tensors([2, 0, 1]), 0.3, 11)())
    for t, place in ((0, 1), (1, 2), (2, 0)):
        assert torch.equal(again[t], first[t])
        assert torch.equal(turned[place], first[t])
    other = next(iter(thinned(lambda: tensors([0, 1, 2]), 0.3, 12)()))
    assert not torch.equal(other != 0, first[0] != 0)


def test_one_entry_stays_of_the_smallest_core() -> None:
    """Else a core of 2 x 2 at the usual density would merge to nothing."""
    core = torch.tensor([[1.0, -3.0], [0.5, 2.0]], dtype=torch.float64)
    assert prevailing(lambda: [core], 0.2, "total").merged.tolist() == [[0.0, -3.0], [0.0, 0.0]]


def test_the_sum_leaves_what_it_sums_alone() -> None:
    whole = tensors([0, 1, 2])
    before = [t.clone() for t in whole]
    assert torch.equal(total(lambda: whole), before[0] + before[1] + before[2])
    assert all(torch.equal(*pair) for pair in zip(whole, before, strict=True))
