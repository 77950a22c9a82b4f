"""Adapters in the coordinates of bases they share, where entries of unlike adapters mean the same.

With `U` the left singular vectors of all Bs side by side and `V` the right ones of all As one above the
other, each update is `U M_t V^T` exactly, and its core `M_t` has the size of the pool, not of the site.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lego_ray.numerics.truncated_svd import UpdateSvd


@dataclass(frozen=True, slots=True)
class CoreSpace:
    """The bases of a pool, and its MSUs' coordinates in them.

    Attributes:
        v: Basis of the `a` halves, shape (d_in, m_a), float64, orthonormal columns.
        u: Basis of the `b` halves, shape (d_out, m_b).
        a: Coordinates of the `a` halves, shape (m_a, n).
        b: Coordinates of the `b` halves, shape (m_b, n).
    """

    v: Tensor
    u: Tensor
    a: Tensor
    b: Tensor

    def cores(self, members: Iterable[Tensor]) -> Iterator[Tensor]:
        """The core `M_t` of each adapter, shape (m_b, m_a), float64.

        Args:
            members: The positions of each adapter's MSUs.
        """
        for at in members:
            yield self.b[:, at] @ self.a[:, at].T

    def decompose(self, core: Tensor) -> UpdateSvd:
        """The singular value decomposition of `U M V^T`."""
        p, s, qh = torch.linalg.svd(core, full_matrices=False)
        return UpdateSvd(self.v, self.u, p, s, qh.T)


def core_space(rows: Tensor, d_in: int) -> CoreSpace:
    """Finds the bases that a pool's adapters share.

    Args:
        rows: Rows `[a ; b]`, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
    """
    wide = rows.double()
    v, a = _basis(wide[:, :d_in].T)
    u, b = _basis(wide[:, d_in:].T)
    return CoreSpace(v, u, a, b)


def _basis(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors of some columns, and the columns' coordinates in them."""
    q, r = torch.linalg.qr(columns)
    p, d, wh = torch.linalg.svd(r, full_matrices=False)
    return q @ p, d[:, None] * wh
