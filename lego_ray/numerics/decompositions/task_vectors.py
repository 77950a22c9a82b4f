"""Each adapter's own singular vectors, and all of them made orthogonal to one another.

The method is that of TSV-Merge (arXiv 2412.00081).
"""

from __future__ import annotations

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.truncated_svd import SMALLEST, svd_of_sum
from lego_ray.numerics.msu import canonical_order, lengths, squared_norms
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool


def leading_terms(shard: Shard, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular terms of each adapter of a shard.

    Args:
        shard: The shard, which has all ranks of each of its adapters.
        most: Terms of an adapter.

    Returns:
        Rows `sqrt(s) [v ; u]`, shape (m, d), float64; the place of each among its adapter's, and that
        adapter, both of shape (m,), int64. Terms that are rounding and nothing else are not among them.
    """
    pool, rows, places, adapters = shard.pool, [], [], []
    for adapter in torch.unique(pool.adapters).tolist():
        own = pool.rows[(pool.adapters == adapter).to(pool.rows.device)]
        # In one order, whatever order the ranks came in.
        found = svd_of_sum(own[canonical_order(own, lengths(own))], pool.d_in)
        kept = min(most, found.n_terms)
        rows.append(found.rows(kept).cpu())
        places.append(torch.arange(kept))
        adapters.append(torch.full((kept,), adapter))
    return torch.cat(rows), torch.cat(places), torch.cat(adapters)


def shared_out_terms(pool: SpreadPool, k: int) -> tuple[Tensor, Tensor]:
    """Terms of all adapters, at most k, as many of each as of the others.

    Each of T adapters has k/T of them, rounded down; what is left over goes to the largest of the next.

    Args:
        pool: The pool.
        k: At least T.

    Returns:
        Rows `sqrt(s) [v ; u]`, shape (k', d), float64, in an order of their own; and the adapter of
        each, shape (k',), int64.
    """
    adapters = int(torch.unique(pool.adapters).numel())
    sure = k // adapters
    parts = list(pool.shards.map(leading_terms, -(-k // adapters)))
    rows, places, owners = (torch.cat(each) for each in zip(*parts, strict=True))
    narrow = rows.float()
    order = canonical_order(narrow, lengths(narrow))  # longest first, which is largest first
    places = places[order]
    first = (places < sure).nonzero()[:, 0]
    rest = (places >= sure).nonzero()[:, 0][: k - len(first)]
    kept = order[torch.cat([first, rest])]
    return rows[kept], owners[kept]


def orthogonalised(rows: Tensor, d_in: int) -> Tensor:
    """Replaces all left singular vectors by the nearest orthonormal ones, and all right ones.

    With `U = P D Q^T` the matrix of the left vectors of all adapters, `P Q^T` is the orthonormal matrix
    nearest to it (the orthogonal Procrustes problem); singular values stay as they are.

    Args:
        rows: Rows `sqrt(s) [v ; u]`, shape (m, d), float64.
        d_in: Length of the `a` half.

    Returns:
        The same with other u and v, shape (m, d), float64. Vectors that depend on one another share the
        directions there are.
    """
    root = squared_norms(rows[:, :d_in]).sqrt()  # of s, for v has length 1
    units = rows / root[:, None]
    halves = [polar(units[:, :d_in]), polar(units[:, d_in:])]
    return torch.cat(halves, dim=1) * root[:, None]


def polar(vectors: Tensor) -> Tensor:
    """The orthonormal rows nearest to some rows.

    Args:
        vectors: Shape (m, size), float64.

    Returns:
        The same shape. Rows that depend on one another share the directions there are.
    """
    p, d, qh = torch.linalg.svd(vectors, full_matrices=False)
    there = d > SMALLEST * d[:1]
    found: Tensor = (p * there) @ qh
    return found
