"""Adapters in the coordinates of bases they share, where entries of unlike adapters mean the same.

With `U` an orthonormal basis of all Bs side by side and `V` one of all As one above the other, each
update is `U M_t V^T` exactly, and its core `M_t` has the size of the pool, not of the site (Core Space,
arXiv 2509.17786).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd


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

    def sides(self, found: UpdateSvd, k: int) -> tuple[Tensor, Tensor]:
        """What the first k terms of a decomposition are in these bases, shapes (m_b, k) and (m_a, k).

        Args:
            found: By `decompose`.
            k: How many.
        """
        return found.u[:, :k], found.v[:, :k]

    def within(self, u: Tensor, v: Tensor) -> CoreSpace:
        """The adapters projected into subspaces, or turned if these are everything.

        Args:
            u: The left subspace in these coordinates, shape (m_b, k), orthonormal columns.
            v: The right one, shape (m_a, k').

        Returns:
            Bases whose largest entries are positive, whatever the signs of u and v.
        """
        left, right = self.u @ u, self.v @ v
        flip_u, flip_v = signs(left), signs(right)
        return CoreSpace(
            v=right * flip_v,
            u=left * flip_u,
            a=(v * flip_v).T @ self.a,
            b=(u * flip_u).T @ self.b,
        )


def signs(basis: Tensor) -> Tensor:
    """What makes the largest entry of each column positive: 1 or -1, shape (m,), float64."""
    peaks = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))[0]
    return torch.where(peaks < 0, -1.0, 1.0).double()


def pool_bases(rows: Tensor, d_in: int) -> CoreSpace:
    """Orthonormal bases of a pool's halves, by thin QR.

    Args:
        rows: Rows `[a ; b]`, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
    """
    v, a = torch.linalg.qr(rows[:, :d_in].double().T)
    u, b = torch.linalg.qr(rows[:, d_in:].double().T)
    return CoreSpace(v, u, a, b)


def core_space(rows: Tensor, d_in: int) -> CoreSpace:
    """The bases of Core Space merging (arXiv 2509.17786): singular vectors of the halves.

    Args:
        rows: Rows `[a ; b]`, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
    """
    space = pool_bases(rows, d_in)
    left, right = (torch.linalg.svd(half, full_matrices=False).U for half in (space.b, space.a))
    return space.within(left, right)
