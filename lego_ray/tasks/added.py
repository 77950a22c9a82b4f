"""Sums of differences over the adapters of a merge, in float64 and in plan order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.formats.decode import as_float32, check_finite
from lego_ray.formats.differences import Difference
from lego_ray.lazy import Tensor, torch


@dataclass(slots=True)
class Added:
    """The sum of the differences of one weight.

    Attributes:
        total: Sum over the adapters of their differences, times scaling and weight, float64.
        squares: Sum of the squared norms of the terms.
    """

    total: Tensor
    squares: float = 0.0

    def packed(self) -> bytes:
        """The values of the sum and then the squares, float64, little-endian."""
        values = torch.cat(
            [self.total.flatten(), torch.tensor([self.squares], dtype=torch.float64)]
        )
        return values.numpy().tobytes()

    @classmethod
    def unpacked(cls, raw: bytes, shape: Sequence[int]) -> Added:
        """What `packed` gave these bytes of.

        Args:
            raw: The bytes.
            shape: Shape of the sum.
        """
        values = torch.frombuffer(bytearray(raw), dtype=torch.float64)
        return cls(values[:-1].reshape(tuple(shape)), float(values[-1]))


def add_differences(
    sums: dict[str, Added],
    differences: Sequence[Difference],
    buffers: Mapping[str, memoryview],
    adapter: str,
) -> None:
    """Adds an adapter's differences; the order of the calls is that of the sum.

    Args:
        sums: By common key; changed.
        differences: The adapter's.
        buffers: Its tensors' bytes, by name.
        adapter: Its URI, for the error.

    Raises:
        NonFiniteWeights: If one holds NaN or infinity; nothing was added.
    """
    terms: list[tuple[str, Tensor]] = []
    for each in differences:
        stored = as_float32(each.span, buffers[each.span.name])
        check_finite(stored, adapter, each.span.name)
        if each.rows is not None:
            stored = stored[each.rows[0] : each.rows[1]]
        if each.is_swapped:
            stored = torch.cat(stored.chunk(2)[::-1])
        terms.append((each.key, stored.to(torch.float64) * each.scaling))
    for key, term in terms:
        squares = float(term.square().sum())
        if key in sums:
            sums[key].total += term
            sums[key].squares += squares
        else:
            sums[key] = Added(term, squares)
