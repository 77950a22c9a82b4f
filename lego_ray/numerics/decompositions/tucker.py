"""Directions that the updates of all adapters share: the rank-k Tucker decomposition of their stack.

The updates `dW_t`, one behind the other, are a tensor of d_out x d_in x T. In its Tucker-2 decomposition
`dW_t ~ U G_t V^T` the orthonormal U and V have k columns and keep most of all updates together:
`sum_t ||U^T dW_t V||_F^2` is largest. It is found by higher-order orthogonal iteration (De Lathauwer, De
Moor and Vandewalle, 2000): V from the singular vectors of the tensor itself, then U from V and V from U
in turn. All of it is done in bases of the pool, so that no matrix is larger than the pool.
"""

from __future__ import annotations

from collections.abc import Sequence

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.costs import MATMUL_64, Costs
from lego_ray.numerics.decompositions.core_space import CoreSpace
from lego_ray.numerics.decompositions.truncated_svd import SMALLEST, bases_costs

# Share of the whole that a round must gain, or it is the last; directions are then right to about the
# root of that.
GAIN = 2.0**-36
MOST_ROUNDS = 1000
# As many as adapters take that share some directions; without any it is hundreds.
ROUNDS = 50


def tucker(space: CoreSpace, members: Sequence[Tensor], k: int, beta: float = 1.0) -> CoreSpace:
    """The adapters projected into the k directions on either side that they share.

    Args:
        space: Bases of the pool, and its MSUs' coordinates in them.
        members: The positions of each adapter's MSUs.
        k: Directions a side.
        beta: How far an adapter's norm counts when directions are chosen: each counts as if it had the
            norm `beta ||dW_t|| + (1 - beta) mean_t ||dW_t||`. No update is changed by it. Adapters
            whose update is zero, or rounding and nothing else, do not count.

    Returns:
        The same adapters in bases of min(k, m) columns, those that keep most first. They depend on the
        updates alone, not on their factors. The iteration climbs to the best directions nearby, and
        nobody knows whether those are the best there are.
    """
    blocks = _blocks(space.a, space.b.T, members)
    weights = _weights(space, members, blocks, beta)
    whole = torch.cat([w * block for w, block in zip(weights, blocks, strict=True)], dim=1)
    a, b = space.a.clone(), space.b
    for at, weight in zip(members, weights, strict=True):
        a[:, at] *= weight
    v = _leading(whole, k)
    u = _leading(torch.cat(_blocks(b, a.T @ v, members), dim=1), k)
    total, before = float(whole.square().sum()), 0.0
    for _ in range(MOST_ROUNDS):
        u = _nearer(torch.cat(_blocks(b, a.T @ v, members), dim=1), u)
        beside = torch.cat(_blocks(a, b.T @ u, members), dim=1)
        v = _nearer(beside, v)
        kept = float((v.T @ beside).square().sum())
        if kept - before <= GAIN * total:
            break
        before = kept
    return space.within(u, v)


def _blocks(left: Tensor, right: Tensor, members: Sequence[Tensor]) -> list[Tensor]:
    """Each adapter's `left_t right_t`, or of fewer columns with the same left vectors and lengths.

    Args:
        left: Shape (m, n).
        right: Shape (n, k).
        members: The columns of left and rows of right that are each adapter's.
    """
    blocks = []
    for at in members:
        factor = right[at]
        if factor.shape[1] > factor.shape[0]:
            factor = torch.linalg.qr(factor.T, mode="r").R.T
        blocks.append(left[:, at] @ factor)
    return blocks


def _weights(
    space: CoreSpace, members: Sequence[Tensor], blocks: Sequence[Tensor], beta: float
) -> list[float]:
    """For each adapter the norm it is to have over the one it has; 0 if that is only rounding."""
    norms = [float(torch.linalg.matrix_norm(block)) for block in blocks]
    lengths = torch.linalg.vector_norm(space.a, dim=0) * torch.linalg.vector_norm(space.b, dim=0)
    there = [
        norm > SMALLEST * float(lengths[at].sum()) for norm, at in zip(norms, members, strict=True)
    ]
    mean = sum(n for n, is_there in zip(norms, there, strict=True) if is_there) / max(sum(there), 1)
    return [
        (beta * norm + (1 - beta) * mean) / norm if is_there else 0.0
        for norm, is_there in zip(norms, there, strict=True)
    ]


def _leading(matrix: Tensor, k: int) -> Tensor:
    """The first k left singular vectors, or all there are."""
    u, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    first: Tensor = u[:, :k]
    return first


def _nearer(matrix: Tensor, start: Tensor) -> Tensor:
    """The first left singular vectors; of a large matrix, directions nearer to them than the start.

    Of the directions `[P, N N^T P]`, P the start, those that keep most of the matrix N. They keep no
    less than P does, and where nothing is gained any more they are singular vectors.
    """
    k = start.shape[1]
    if 2 * k >= min(matrix.shape):
        return _leading(matrix, k)
    basis, _ = torch.linalg.qr(torch.cat([start, matrix @ (matrix.T @ start)], dim=1))
    nearer: Tensor = basis @ _leading(basis.T @ matrix, k)
    return nearer


def tucker_costs(n: int, d_in: int, d_out: int, k: int) -> Costs:
    """What `pool_bases` and `tucker` take of time and memory.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
        k: Directions a side.
    """
    # QR of the halves, singular vectors once; each half round three passes of k columns over the blocks.
    found = bases_costs(n, d_in, d_out)
    sides = min(n, d_in) + min(n, d_out)
    blocks = sides * n
    return Costs(
        found.seconds + ROUNDS * 3 * k * blocks / MATMUL_64,
        found.workspace_bytes + 8 * 3 * blocks,
    )
