"""Inner products of rows rounded to 12 bits of their length: float32 products that are exact.

Each half of a row is rounded to whole numbers of a unit, which is a power of two of the half's own, so
that no half is longer than 4,096 units. By Cauchy and Schwarz no partial sum of a product of two such
halves exceeds 2^24, whatever the order of addition, so float32 holds it exactly. The products are
therefore the same bits on every processor, in half the time of float64. What is decided by them is
decided for the rounded rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import chunks, rows_in_cache

# Longest half in units: the square of it is the largest whole number up to which float32 has all.
LONGEST = 4096.0
# Rows of a diagonal block of a symmetric product.
BLOCK = 128
# The least exponent of a unit: float32 cannot hold the inverse of a much smaller one.
LEAST_EXPONENT = -90


@dataclass(frozen=True, slots=True)
class RoughHalves:
    """Inner products of rounded rows, the halves apart, each in the units of its two rows.

    Attributes:
        a: Of the `a` halves, shape (n, n), float32, whole numbers.
        b: Of the `b` halves, shape (n, n), float32, whole numbers.
        units_a: Unit of each row's `a` half, shape (n,), float64, powers of two.
        units_b: Unit of each row's `b` half, shape (n,), float64, powers of two.
    """

    a: Tensor
    b: Tensor
    units_a: Tensor
    units_b: Tensor

    def wide(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Some rows of both products in squared parameter units, each (m, n), float64."""
        a = self.a[rows].double().mul_(self.units_a[rows, None]).mul_(self.units_a)
        b = self.b[rows].double().mul_(self.units_b[rows, None]).mul_(self.units_b)
        return a, b

    def products(self) -> Tensor:
        """Inner products of the rounded rows, shape (n, n), float64."""
        out = torch.empty(self.a.shape, dtype=torch.float64)
        for rows in chunks(out.shape[0], BLOCK):
            a, b = self.wide(rows)
            torch.add(a, b, out=out[rows])
        return out

    def noise(self, d_in: int, d_out: int) -> float:
        """Squared rounding to expect of all rows together: a twelfth of a squared unit a value.

        Args:
            d_in: Length of an `a` half.
            d_out: Length of a `b` half.
        """
        squares = d_in * self.units_a.square(), d_out * self.units_b.square()
        return math.fsum(each for half in squares for each in half.tolist()) / 12


def in_units(values: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rounds rows to whole units.

    Args:
        values: One half of some rows, shape (n, w), float32.
        at: Which of them and in which order, shape (m,), int64; all, unless given.

    Returns:
        The rows in units, shape (m, w), float32, and the unit of each, shape (m,), float64.
    """
    n, width = len(values if at is None else at), values.shape[1]
    out = torch.empty(n, width, device=values.device)
    units = torch.empty(n, dtype=torch.float64, device=values.device)
    # Rounding lengthens a row by half a unit a value at most.
    longest = LONGEST - 0.5 * width**0.5
    for rows in chunks(n, rows_in_cache(values, n)):
        part = values[rows] if at is None else values[at[rows]]
        norms = torch.linalg.vector_norm(part, dim=1, dtype=torch.float64)
        exponents = torch.frexp(norms / longest).exponent.clamp(min=LEAST_EXPONENT)
        units[rows] = torch.ldexp(torch.ones_like(norms), exponents)
        torch.mul(part, (1 / units[rows, None]).float(), out=out[rows])
        out[rows].round_()
    return out, units


def rough_halves(rows: Tensor, d_in: int, at: Tensor | None = None) -> RoughHalves:
    """Inner products of rounded rows; see the module.

    Args:
        rows: Shape (n, d), float32.
        d_in: Length of the `a` half.
        at: Which rows and in which order, shape (m,), int64; all, unless given.

    Returns:
        The products, on the CPU.
    """
    halves = (rows[:, :d_in], rows[:, d_in:])
    (a, units_a), (b, units_b) = (_half(half, at) for half in halves)
    return RoughHalves(a, b, units_a, units_b)


def _half(values: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor]:
    rounded, units = in_units(values, at)
    return _symmetric(rounded).cpu(), units.cpu()


def _symmetric(rounded: Tensor) -> Tensor:
    n = rounded.shape[0]
    out = torch.empty(n, n, device=rounded.device)
    for rows in chunks(n, BLOCK):
        torch.mm(rounded[rows], rounded[: rows.stop].T, out=out[rows, : rows.stop])
    for rows in chunks(n, BLOCK):
        out[: rows.start, rows] = out[rows, : rows.start].T
    return out
