"""Updates side by side in one singular value decomposition, so that they share left vectors.

The method is that of KnOTS (arXiv 2410.19735).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.core_space import signs
from lego_ray.numerics.decompositions.truncated_svd import SMALLEST, UpdateSvd


@dataclass(frozen=True, slots=True)
class SharedLeft:
    """`[dW_1 ... dW_T] = U diag(s) [V_1 ; ... ; V_T]^T`, from the factors.

    Attributes:
        u: Shape (d_out, m), float64, the largest entry of each column positive.
        s: Shape (m,), float64; those that are rounding and nothing else are not among them.
        bases: For each adapter an orthonormal basis of its `a` halves, shape (d_in, r_t).
        within: For each adapter the coordinates of `V_t` in it, shape (r_t, m).
        left: The `a` halves, shape (d_in, n), float64.
        right: For each MSU what its column of left is times in its adapter's `V_t`, shape (m, n):
            `V_t = left_t right_t^T`.
    """

    u: Tensor
    s: Tensor
    bases: tuple[Tensor, ...]
    within: tuple[Tensor, ...]
    left: Tensor
    right: Tensor

    def rights(self) -> Iterator[Tensor]:
        """Each adapter's `V_t`, shape (d_in, m), float64, made when it is asked for."""
        for basis, inside in zip(self.bases, self.within, strict=True):
            yield basis @ inside

    def decompose(self, right: Tensor) -> UpdateSvd:
        """The singular value decomposition of `U diag(s) V^T` for another V, shape (d_in, m)."""
        q, r = torch.linalg.qr(right)
        p, s, wh = torch.linalg.svd(self.s[:, None] * r.T, full_matrices=False)
        return UpdateSvd(q_a=q, q_b=self.u, u=p, s=s, v=wh.T)

    def sides(self, found: UpdateSvd, k: int) -> tuple[Tensor, Tensor]:
        """What the first k terms of a decomposition are beside a V, shapes (d_in, k) and (m, k).

        With x and y these, `x_i^T V y_i` is `u_i^T W v_i` of the update W that V stands for.

        Args:
            found: By `decompose`.
            k: How many.
        """
        assert found.q_a is not None  # as `decompose` gives it
        return found.q_a @ found.v[:, :k], self.s[:, None] * found.u[:, :k]


def shared_left(rows: Tensor, d_in: int, members: Sequence[Tensor]) -> SharedLeft:
    """Decomposes the updates side by side.

    With thin QRs `B^T = Q R` of all `b` halves and `A_t^T = Q_t L_t` of each adapter's `a` halves it is
    the decomposition of `[R_1 L_1^T ... R_T L_T^T]`, a matrix of the pool's size.

    Args:
        rows: Rows `[a ; b]`, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
        members: The positions of each adapter's MSUs.
    """
    q, r = torch.linalg.qr(rows[:, d_in:].double().T)
    left = rows[:, :d_in].double().T
    bases, blocks = [], []
    for at in members:
        basis, inner = torch.linalg.qr(left[:, at])
        bases.append(basis)
        blocks.append(r[:, at] @ inner.T)
    p, s, wh = torch.linalg.svd(torch.cat(blocks, dim=1), full_matrices=False)
    kept = max(int((s > SMALLEST * s[0]).sum()), 1)
    right = (p[:, :kept] / s[:kept]).T @ r
    u = q @ p[:, :kept]
    flip = signs(u)  # or an election that ties would depend on LAPACK's
    within = torch.split_with_sizes(wh[:kept].T * flip, [basis.shape[1] for basis in bases])
    return SharedLeft(u * flip, s[:kept], tuple(bases), tuple(within), left, right * flip[:, None])
