"""Adapters with even singular values, merged in the directions of all of them (DC-Merge)."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.gauge import align_signs
from lego_ray.numerics.decompositions.task_vectors import polar
from lego_ray.numerics.msu import squared_norms

# Share of an adapter's entries that count, the largest.
COUNTED = 1e-3


@dataclass(frozen=True, slots=True)
class Covered:
    """A merged update, and what its ranks are made of.

    Attributes:
        rows: Rows `[a' ; b']`, shape (m', d), float64, m' <= m; rank i lies along direction i of U.
        parts: What each adapter's singular terms are of each rank, shape (m, m'), float64:
            `u_i^T C v_i` of what the method makes of the term.
    """

    rows: Tensor
    parts: Tensor


def merged_in_cover(terms: Tensor, owners: Tensor, d_in: int) -> Covered:
    """DC-Merge (arXiv 2603.06242) of adapters given by their first singular terms.

    Each adapter's singular values become their mean. With U and V the directions of all adapters made
    orthonormal, it is `M_t = U^T W_t V` there. Of each `M_t` the largest entries count, one in a
    thousand but no fewer than the adapter has terms; of an entry the mean over the adapters whose sign
    is that of the sum; and of the outcome M only the blocks in which rows and columns belong to one
    adapter. The update is `U M V^T`.

    Args:
        terms: Rows `sqrt(s) [v ; u]`, shape (m, d), float64.
        owners: The adapter of each, shape (m,), int64.
        d_in: Length of the `a` half.
    """
    norms = squared_norms(terms[:, :d_in])  # s, for v has length 1
    units = terms / norms.sqrt()[:, None]
    v, u = polar(units[:, :d_in]).T, polar(units[:, d_in:]).T
    right, left = units[:, :d_in] @ v, units[:, d_in:] @ u  # of each term, shapes (m, m)

    each = [owners == owner for owner in dict.fromkeys(owners.tolist())]
    cores, block = [], torch.zeros(len(owners), len(owners), dtype=torch.bool, device=terms.device)
    for mine in each:
        core = norms[mine].mean() * left[mine].T @ right[mine]
        most = max(int(mine.sum()), int(COUNTED * core.numel()))
        least = core.abs().flatten().sort(descending=True).values[most - 1]
        cores.append(torch.where(core.abs() >= least, core, 0.0))
        block |= mine[:, None] & mine
    stacked = torch.stack(cores)
    agrees = (stacked.sign() == stacked.sum(dim=0).sign()) & (stacked != 0) & block
    counts = agrees.double() / agrees.sum(dim=0).clamp(min=1)
    merged = (stacked * counts).sum(dim=0)
    values = torch.linalg.vector_norm(merged, dim=1)
    there = values > 0
    there[:1] = True  # one of zeros where there is none
    values = values[there]
    y = merged[there] / values.clamp(min=torch.finfo(values.dtype).tiny)[:, None]

    parts = terms.new_empty(len(owners), len(values))
    for mine, weights in zip(each, counts, strict=True):
        # Of each of its terms i and rank r: left_ir sum_q weights_rq right_iq y_rq.
        seen = left[mine][:, there] * (right[mine] @ (weights[there] * y).T)
        parts[mine] = norms[mine].mean() * seen
    root = values.sqrt()[:, None]
    rows = torch.cat([(y @ v.T) * root, u.T[there] * root], dim=1)
    return Covered(align_signs(rows, d_in), parts)
