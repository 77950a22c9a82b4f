"""Factor pairs to minimal semantic units and back, and the order that makes them a set."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from lego_ray.errors import ShapeMismatch
from lego_ray.lazy import Tensor, torch


def msu_rows(a: Tensor, b: Tensor, scaling: float, out: Tensor | None = None) -> Tensor:
    """Takes a factor pair apart into MSUs, `m_i = sqrt(s) [a_i ; b_i]`.

    The update is kept: `s B A = sum_i b_i a_i^T` over the rows returned (arXiv 2409.16167, section 3,
    with the scaling folded in, which the paper leaves out because its adapters have alpha = r).

    Args:
        a: A, shape (r, d_in), float32.
        b: B, shape (d_out, r), float32.
        scaling: s, alpha/r or alpha/sqrt(r). A negative one goes to the sign of the `b` half.
        out: Where to, shape (r, d_in + d_out), float32; a new tensor, unless given.

    Returns:
        Shape (r, d_in + d_out), float32.

    Raises:
        ShapeMismatch: If the ranks of A and B differ, or `out` is of another shape.
    """
    rank, d_in = a.shape
    if b.dim() != 2 or b.shape[1] != rank:
        raise ShapeMismatch(
            "msu_rows", f"A has shape {tuple(a.shape)} and B has shape {tuple(b.shape)}"
        )
    root = math.sqrt(abs(scaling))
    rows = torch.empty(rank, d_in + b.shape[0], dtype=torch.float32) if out is None else out
    if rows.shape != (rank, d_in + b.shape[0]):
        problem = f"they have shape {(rank, d_in + b.shape[0])}, the room {tuple(rows.shape)}"
        raise ShapeMismatch("msu_rows", problem)
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
    """`longest_first` of rows that are in memory.

    Args:
        rows: Shape (n, d), float32, contiguous.
        lengths: Their `lengths`, shape (n,), float32.

    Returns:
        Shape (n,), int64: position -> row.
    """
    return longest_first(lengths, lambda tied: digests(rows[tied]))


def longest_first(lengths: Tensor, digests_of: Callable[[Tensor], Sequence[bytes]]) -> Tensor:
    """The order in which a pool's rows are worked on, whatever order they arrived in.

    Longest first; rows of equal length by their bytes' digest. So permuting ranks or adapters changes
    no bit downstream, and a change of the rounding kind moves only rows of nearly equal length.

    Args:
        lengths: The rows' `lengths`, shape (n,), float32.
        digests_of: Gives the `digests` of the rows at some positions; asked once, and only if there
            are rows of equal length.

    Returns:
        Shape (n,), int64: position -> row.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    ordered = lengths[order]
    same = ordered[1:] == ordered[:-1]
    edge = torch.zeros(1, dtype=torch.bool, device=lengths.device)
    tied = (torch.cat([edge, same]) | torch.cat([same, edge])).nonzero()[:, 0]
    if tied.numel():
        rows = order[tied].cpu()
        # Runs of equal lengths lie side by side, so sorting all tied rows by both keeps each in place.
        keys = list(zip((-ordered[tied]).tolist(), digests_of(rows), rows.tolist(), strict=True))
        order[tied] = torch.tensor([row for *_, row in sorted(keys)], device=order.device)
    return order.cpu()


def digests(rows: Tensor) -> list[bytes]:
    """sha256 of each row's bytes; rows has shape (n, d), float32."""
    return [hashlib.sha256(row.tobytes()).digest() for row in rows.cpu().contiguous().numpy()]


def squared_norms(rows: Tensor) -> Tensor:
    """Squared Euclidean length of each row, summed in float64.

    Args:
        rows: Shape (n, d), float32.

    Returns:
        Shape (n,), float64.
    """
    out = torch.empty(rows.shape[0], dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[0], 64):  # a few rows of float64 copy at a time
        block = rows[start : start + 64].to(torch.float64, copy=True)
        out[start : start + 64] = block.square_().sum(dim=1)
    return out
