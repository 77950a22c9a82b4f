"""The update that interferes least with what each adapter does to its own inputs (SWUDI).

WUDI (arXiv 2503.08099) minimises `sum_t ||(W - W_t) W_t^T||_F^2 / ||W_t||_F^2`: the rows of `W_t` stand
for the inputs of task t. With `C_t = W_t^T W_t / ||W_t||_F^2` and `C = sum_t C_t` every solution of
`W C = sum_t W_t C_t` is a minimum. Where C is small the solution is noise, so it is taken in C's first
directions alone (SWUDI, arXiv 2606.07289).
"""

from __future__ import annotations

from collections.abc import Sequence

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.core_space import pool_bases
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd


def least_interference(
    rows: Tensor, d_in: int, members: Sequence[Tensor], rank: int
) -> tuple[UpdateSvd, Tensor]:
    """WUDI's minimum in the K first eigenvectors `Q` of C, and the sum of the updates elsewhere.

    `W = sum_t W_t (C_t Q L^-1 Q^T + I - Q Q^T)` with the K largest eigenvalues `L`, K the participation
    ratio `(sum_i l_i)^2 / sum_i l_i^2`, rounded. Adapters whose update is zero say nothing.

    Args:
        rows: Rows `[a ; b]` of the pool, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
        members: The positions of each adapter's rows.
        rank: k.

    Returns:
        W, decomposed; and what each MSU is of its first k terms, shape (n, k'), float64. MSU j of
        adapter t is in W as `b_j a_j^T (C_t Q L^-1 Q^T + I - Q Q^T)`.
    """
    space = pool_bases(rows, d_in)
    everything = space.a.new_zeros(len(space.a), len(space.a))
    at_t, inner_t = [], []  # C_t is A^T I_t A of adapter t's own rows
    for at in members:
        a, b = space.a[:, at], space.b[:, at]
        inner = b.T @ b
        # ||W_t||_F^2 = tr(B^T B A A^T)
        squared = float((inner * (a.T @ a)).sum())
        if squared > 0:
            at_t.append(at)
            inner_t.append(inner / squared)
            everything.addmm_(a @ inner_t[-1], a.T)
    if not at_t:
        found = space.decompose(space.b @ space.a.T)
        return found, rows.new_zeros(len(rows), len(found.s[:rank]), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(everything)
    kept = round(float(values.sum().square() / values.square().sum()))
    first, sizes = vectors[:, -kept:], values[-kept:]
    right = space.a.clone()
    right -= first @ (first.T @ right)
    for at, inner in zip(at_t, inner_t, strict=True):
        # F_t^T a_j, with F_t = C_t Q L^-1 Q^T + I - Q Q^T.
        a = space.a[:, at]
        right[:, at] += first @ ((first.T @ a @ (inner @ (a.T @ a))) / sizes[:, None])
    found = space.decompose(space.b @ right.T)
    return found, (space.b.T @ found.u[:, :rank]) * (right.T @ found.v[:, :rank])
