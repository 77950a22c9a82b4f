"""Factor pairs to minimal semantic units and back, and the order that makes them a set."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lego_ray.errors import ShapeMismatch


def msu_rows(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Takes a factor pair apart into MSUs, `m_i = sqrt(s) [a_i ; b_i]`.

    The update is kept: `s B A = sum_i b_i a_i^T` over the rows returned (arXiv 2409.16167, section 3,
    with the scaling folded in, which the paper leaves out because its adapters have alpha = r).

    Args:
        a: A, shape (r, d_in), float32.
        b: B, shape (d_out, r), float32.
        scaling: s, alpha/r or alpha/sqrt(r). A negative one goes to the sign of the `b` half.

    Returns:
        Shape (r, d_in + d_out), float32.

    Raises:
        ShapeMismatch: If the ranks of A and B differ.
    """
    rank, d_in = a.shape
    if b.dim() != 2 or b.shape[1] != rank:
        raise ShapeMismatch(
            "msu_rows", f"A has shape {tuple(a.shape)} and B has shape {tuple(b.shape)}"
        )
    root = math.sqrt(abs(scaling))
    rows = torch.empty(rank, d_in + b.shape[0], dtype=torch.float32)
    torch.mul(a, root, out=rows[:, :d_in])
    torch.mul(b.T, math.copysign(root, scaling), out=rows[:, d_in:])
    return rows


def split_rows(rows: Tensor, d_in: int) -> tuple[Tensor, Tensor]:
    """Puts rows `[a ; b]` back together as a factor pair of scaling 1.

    Args:
        rows: Shape (k, d_in + d_out).
        d_in: Length of the `a` half.

    Returns:
        A' of shape (k, d_in) and B' of shape (d_out, k), both contiguous.
    """
    return rows[:, :d_in].contiguous(), rows[:, d_in:].T.contiguous()


def lengths(rows: Tensor) -> Tensor:
    """Euclidean length of each row, for ordering; not finite if a value is not.

    Args:
        rows: Shape (n, d), float32.

    Returns:
        Shape (n,), float32, rounded alike whichever rows stand beside it.
    """
    found: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return found


def canonical_order(rows: Tensor, lengths: Tensor) -> Tensor:
    """The order in which a pool's rows are worked on, whatever order they arrived in.

    Longest first; rows of equal length by their bytes. So permuting ranks or adapters changes no bit
    downstream, and a change of the rounding kind moves only rows of nearly equal length.

    Args:
        rows: Shape (n, d), float32, contiguous.
        lengths: Their `lengths`, shape (n,), float32.

    Returns:
        Shape (n,), int64: position -> row.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    ordered = lengths[order].tolist()
    positions = order.tolist()
    start = 0
    for end in range(1, len(positions) + 1):
        if end < len(positions) and ordered[end] == ordered[start]:
            continue
        if end - start > 1:  # equal lengths: equal rows, or a coincidence
            positions[start:end] = sorted(
                positions[start:end], key=lambda row: rows[row].numpy().tobytes()
            )
        start = end
    return torch.tensor(positions, dtype=torch.int64)


def squared_norms(rows: Tensor) -> Tensor:
    """Squared Euclidean length of each row, summed in float64.

    Args:
        rows: Shape (n, d), float32.

    Returns:
        Shape (n,), float64.
    """
    out = torch.empty(rows.shape[0], dtype=torch.float64)
    for start in range(0, rows.shape[0], 64):  # a few rows of float64 copy at a time
        block = rows[start : start + 64].double()
        out[start : start + 64] = block.square_().sum(dim=1)
    return out
