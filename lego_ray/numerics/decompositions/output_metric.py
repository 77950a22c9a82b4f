"""The least squares over adapters, each in the metric of the outputs that it changes, or of its inputs.

`W` minimises `sum_t tr((W - W_t)^T G_t (W - W_t))` with `G_t = W_t W_t^T / ||W_t||_F^2 + I / d_out`. It
lies in the span of all Bs, so it is worked out in a basis of these, of the pool's size and not the
site's.
"""

from __future__ import annotations

from collections.abc import Sequence

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.core_space import pool_bases
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd


def nearest_in_metric(
    rows: Tensor, d_in: int, members: Sequence[Tensor], rank: int
) -> tuple[UpdateSvd, Tensor]:
    """The minimiser of rank k, decomposed.

    With `G = sum_t G_t = L L^T`, of all updates of rank k the nearest to W in the metric G is
    `L^-T [L^T W]_k`, where `[.]_k` are the first k singular terms. Adapters whose update is zero say
    nothing and are left out.

    Args:
        rows: Rows `[a ; b]` of the pool, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
        members: The positions of each adapter's rows.
        rank: k.

    Returns:
        Its terms, at most k of which are more than rounding; and what each MSU is of the first k of
        them, `u_i^T C_j v_i`, shape (n, k'), float64. MSU j of adapter t is in the minimiser as
        `L^-T [.]_k L^T G^-1 G_t b_j a_j^T`, where `[.]_k` keeps the first k left singular directions.
    """
    space = pool_bases(rows, d_in)
    d_out, side = rows.shape[1] - d_in, len(space.b)
    eye = torch.eye(side, dtype=torch.float64, device=space.b.device)
    metric, weighted = torch.zeros_like(eye), torch.zeros_like(space.b)
    for at in members:
        a, b = space.a[:, at], space.b[:, at]
        inner = a.T @ a
        # ||W_t||_F^2 = tr(B^T B A A^T)
        turned = inner @ (b.T @ b)
        squared = float(turned.diagonal().sum())
        if squared <= 0:
            continue
        metric += b @ inner @ b.T / squared + eye / d_out
        weighted[:, at] = b @ turned / squared + b / d_out
    lower, failed = torch.linalg.cholesky_ex(metric)
    if failed:  # no adapter changes anything
        found = space.decompose(eye.new_zeros(side, len(space.a)))
        return found, eye.new_zeros(len(rows), len(found.s[:rank]))
    core = torch.cholesky_solve(weighted @ space.a.T, lower)
    u, s, vh = torch.linalg.svd(lower.T @ core, full_matrices=False)
    kept = (u[:, :rank] * s[:rank]) @ vh[:rank]
    found = space.decompose(torch.linalg.solve_triangular(lower.T, kept, upper=True))
    # From the right: first what is left of u_i after the cut, in the metric.
    cut = torch.linalg.solve_triangular(lower, found.u[:, :rank], upper=False)
    cut = torch.linalg.solve_triangular(lower.T, u[:, :rank] @ (u[:, :rank].T @ cut), upper=True)
    return found, (weighted.T @ cut) * (space.a.T @ found.v[:, :rank])


def nearest_in_input_metric(
    rows: Tensor, d_in: int, members: Sequence[Tensor], rank: int
) -> tuple[UpdateSvd, Tensor]:
    """The same with inputs in place of outputs: the minimiser of `sum_t tr((W - W_t) C_t (W - W_t)^T)`.

    `C_t = W_t^T W_t / ||W_t||_F^2 + I / d_in`. It is `nearest_in_metric` of the transposed updates.

    Args:
        rows: As for `nearest_in_metric`.
        d_in: As for `nearest_in_metric`.
        members: As for `nearest_in_metric`.
        rank: k.

    Returns:
        As `nearest_in_metric`.
    """
    turned = torch.cat([rows[:, d_in:], rows[:, :d_in]], dim=1)
    found, products = nearest_in_metric(turned, rows.shape[1] - d_in, members, rank)
    return UpdateSvd(found.q_b, found.q_a, found.v, found.s, found.u), products
