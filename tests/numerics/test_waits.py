"""What a GPU is asked within a step, counted on the CPU: each answer is a wait for all it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lego_ray.numerics.kmeans.partial_sums import (
    GRID_VALUES,
    column_quanta,
    moved_sums,
    partial_sums,
)

K, WIDTH = 5, 1024
CHUNK = GRID_VALUES // WIDTH
aten = torch.ops.aten
# Whose result, or whose shape, depends on values.
ASKING = (
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten.bincount,
    aten.equal,
)
INDEXING = (aten.index, aten.index_put, aten.index_put_)


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts calls after which the host needs an answer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        by_mask = packet in INDEXING and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        self.count += int(packet in ASKING or by_mask)
        return func(*args, **(kwargs or {}))


def labels_of(kind: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels before and after: rows that were counted and others lie between each other."""
    after = (torch.arange(n) % K).int()
    moved = (after + 1) % K
    every = torch.arange(n)
    before = {
        "first": torch.full_like(after, -1),
        "all move": moved,
        "none moves": after,
        "few move": torch.where(every % 10 == 0, moved, after),
        "from a sample": torch.where(every % 3 == 0, moved, -1),
        "from a settled sample": torch.where(every % 3 == 0, after, -1),
    }
    return before[kind].int(), after


KINDS = ("first", "all move", "none moves", "few move", "from a sample", "from a settled sample")


def waits_of(call: Callable[[], object]) -> int:
    counted = Waits()
    with counted:
        call()
    return counted.count


@pytest.mark.parametrize("kind", KINDS)
def test_sums_ask_no_more_for_more_rows(kind: str) -> None:
    counts = []
    for n in (CHUNK // 2, 9 * CHUNK + 7):
        points = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n))
        quanta = column_quanta(points)
        before, after = labels_of(kind, n)
        counts.append(waits_of(lambda: moved_sums(points, before, after, K, quanta)))  # noqa: B023
    assert counts[0] == counts[1]
    assert 2 < counts[0] <= 5


def test_a_wait_is_counted() -> None:
    values = torch.arange(4)
    assert waits_of(lambda: values + 1) == 0
    assert waits_of(lambda: bool((values > 1).all())) == 1
    assert waits_of(lambda: values[values > 1]) == 1
    assert waits_of(lambda: values[torch.tensor([1])]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_what_the_sums_differ_by_to_the_bit(kind: str) -> None:
    n = 2 * CHUNK + 31
    points = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(0))
    quanta = column_quanta(points)
    before, after = labels_of(kind, n)
    counted = before >= 0
    sums = partial_sums(points[counted], before[counted], K, quanta)
    sums.add_(moved_sums(points, before, after, K, quanta))
    wanted = partial_sums(points, after, K, quanta)
    assert torch.equal(sums.sums, wanted.sums)
    assert torch.equal(sums.counts, wanted.counts)
