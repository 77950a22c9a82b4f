"""Removes parts of the gauge: other factor pairs of the same update, chosen without ambiguity.

`(a, b)`, `(-a, -b)` and `(c a, b / c)` are one rank-one update and three points for k-means; so is any
invertible mix of an adapter's ranks. Each function here returns rows of the same update.
"""

from __future__ import annotations

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.msu import canonical_order, lengths, squared_norms


def balance(rows: Tensor, d_in: int) -> Tensor:
    """Rescales each MSU so that its halves are equally long, `|a| = |b|`.

    Args:
        rows: Shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.

    Returns:
        New rows, the same rank-one updates `b a^T`. A row with a zero half is the zero update and
        becomes zero.
    """
    a = squared_norms(rows[:, :d_in])
    b = squared_norms(rows[:, d_in:])
    product = (a * b).sqrt_().sqrt_()
    alive = product > 0
    scale_a = torch.where(alive, product / a.sqrt(), 0.0).float()
    scale_b = torch.where(alive, product / b.sqrt(), 0.0).float()
    out = torch.empty_like(rows)
    torch.mul(rows[:, :d_in], scale_a[:, None], out=out[:, :d_in])
    torch.mul(rows[:, d_in:], scale_b[:, None], out=out[:, d_in:])
    return out


def align_signs(rows: Tensor, d_in: int) -> Tensor:
    """Flips MSUs so that the largest entry of each `a` half is positive.

    Args:
        rows: Shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.

    Returns:
        New rows, the same rank-one updates, unchanged by flips of the input.
    """
    peak = rows[:, :d_in].abs().argmax(dim=1, keepdim=True)
    negative = rows.gather(1, peak) < 0
    return torch.where(negative, -rows, rows)


def svd_basis(rows: Tensor, d_in: int) -> Tensor:
    """Re-expresses one adapter's MSUs at a site in the singular basis of its update.

    `sum_i b_i a_i^T = U S V^T`; the new rows are `sqrt(S_i) [v_i ; u_i]`, signs aligned, longest
    first. Computed from thin QR factors in float64, never a dense d_out x d_in matrix.

    Args:
        rows: The MSUs of one adapter at one site, shape (r, d_in + d_out), float32.
        d_in: Length of the `a` half.

    Returns:
        Shape (r, d_in + d_out), float32, balanced; the same for any invertible mix of the ranks, to
        rounding.
    """
    rows = rows[canonical_order(rows, lengths(rows))].double()
    q_a, r_a = torch.linalg.qr(rows[:, :d_in].T)
    q_b, r_b = torch.linalg.qr(rows[:, d_in:].T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = s.sqrt()
    out = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    found = s.shape[0]  # fewer than r only where r exceeds a dimension of the site
    out[:found, :d_in] = ((q_a @ vh.T) * root).T
    out[:found, d_in:] = ((q_b @ u) * root).T
    return align_signs(out, d_in)


def normalize_halves(rows: Tensor, d_in: int) -> Tensor:
    """`[a/|a| ; b/|b|]`: the points TARA-Merge clusters instead of the raw ones.

    Args:
        rows: Shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.

    Returns:
        New rows, each half of length 1, or 0 where it was zero.
    """
    out = torch.empty_like(rows)
    for half in (slice(0, d_in), slice(d_in, None)):
        norms = squared_norms(rows[:, half]).sqrt_()
        inverse = torch.where(norms > 0, 1.0 / norms, 0.0).float()
        torch.mul(rows[:, half], inverse[:, None], out=out[:, half])
    return out


def rank_one_representative(members: Tensor, d_in: int) -> Tensor:
    """The rank-one update nearest to the mean update of a cluster, as an MSU.

    The top singular triplet `(s, u, v)` of `mean_i b_i a_i^T`, returned as `sqrt(s) [v ; u]`.

    Args:
        members: Shape (m, d_in + d_out), float32.
        d_in: Length of the `a` half.

    Returns:
        Shape (d_in + d_out,), float64, balanced, sign aligned.
    """
    rows = members.double()
    q_a, r_a = torch.linalg.qr(rows[:, :d_in].T)
    q_b, r_b = torch.linalg.qr(rows[:, d_in:].T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T / rows.shape[0], full_matrices=False)
    row = torch.cat([q_a @ vh[0], q_b @ u[:, 0]]) * s[0].sqrt()
    return align_signs(row[None], d_in)[0]
