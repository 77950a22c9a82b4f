"""Directions that adapters have in common, and those that each has beside them (Iso-CTS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.core_space import CoreSpace, pool_bases
from lego_ray.numerics.decompositions.truncated_svd import SMALLEST


@dataclass(frozen=True, slots=True)
class Directions:
    """Singular directions in the coordinates of bases that the adapters share.

    Attributes:
        space: The bases.
        u: Left directions, shape (m_b, m), float64.
        v: Right directions, shape (m_a, m).
        s: Their singular values, shape (m,).
        owners: The place in `members` of the adapter that each belongs to, shape (m,), int64; -1 for one
            that all have in common.
    """

    space: CoreSpace
    u: Tensor
    v: Tensor
    s: Tensor
    owners: Tensor


def common_and_own(
    rows: Tensor, d_in: int, members: Sequence[Tensor], rank: int, common_share: float
) -> Directions:
    """The first singular directions of the sum, and then of what each adapter has beside them.

    Each of T adapters adds `round((1 - common_share) k / T)` directions: the first ones of
    `(I - U U^T) W_t`, with U the left directions of the sum. The others are those of the sum. Adapters
    whose update is zero are not counted, and directions that are nothing but rounding are left out.

    Args:
        rows: Rows `[a ; b]` of the pool, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
        members: The positions of each adapter's rows.
        rank: k.
        common_share: Share of k for the directions of the sum.

    Returns:
        At most k of them, those of the sum first.
    """
    space = pool_bases(rows, d_in)
    largest = [float(_of_pair(space.b[:, at], space.a[:, at])[1][0]) for at in members]
    there = [number for number, value in enumerate(largest) if value > 0]
    adapters = max(len(there), 1)
    own = min(round((rank - int(rank * common_share)) / adapters), rank // adapters)
    common = rank - own * len(there)

    whole = torch.linalg.svd(space.b @ space.a.T, full_matrices=False)
    shared, *others = _first(whole, common, float(whole[1][0]))
    found = [(shared, *others)]
    for number in there:
        at = members[number]
        rest = space.b[:, at] - shared @ (shared.T @ space.b[:, at])
        found.append(_first(_of_pair(rest, space.a[:, at]), own, largest[number]))
    u, s, v = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    counts = torch.tensor([len(values) for _, values, _ in found])
    owners = torch.tensor([-1, *there]).repeat_interleave(counts)
    return Directions(space, u, v, s, owners)


# U, s and V^T.
_Terms = tuple[Tensor, Tensor, Tensor]


def _of_pair(b: Tensor, a: Tensor) -> _Terms:
    """The singular value decomposition of `b a^T`, of few columns, without the matrix itself."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, s, vh @ q_a.T


def _first(found: _Terms, most: int, largest: float) -> _Terms:
    """The first terms, U, s and V, that are more than rounding of an update this large."""
    u, s, vh = found
    kept = min(most, int((s > SMALLEST * largest).sum()))
    return u[:, :kept], s[:kept], vh[:kept].T
