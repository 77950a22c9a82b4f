"""Which MSUs a merged rank is made of: signed shares that sum to 1, the largest of them one by one.

A merged update is a sum over MSUs, `W = sum_j C_j`, where `C_j` is what the method made of MSU j. Its
term `s_i u_i v_i^T` has from MSU j the part `m_ji = u_i^T C_j v_i`, and `sum_j m_ji = s_i`. So
`m_ji / s_i` is the share of MSU j in merged rank i. A share is negative where an MSU works against the
others. A factor on the merged update, or on one of its terms, changes no share.

There are n times k shares, and n MSUs. So that lineage does not outgrow them, each rank names its
largest shares only, and each adapter has one number more: the sum of its shares that are not named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import chunks
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool

# Shares are whole numbers of this, as fine as float32: the last bits of a product, which differ with the
# way a pool was cut, are to change no row of the catalog, and sums of shares are exact in any order.
GRID = 2.0**-24
# Of a rank, shares are named until this part of the sum of their magnitudes is, the largest first,
NAMED = 0.99
# and at most n/k of them, so that a site has about n; of a small pool some more, of a huge one fewer.
FEWEST, MOST = 4, 256
# Ranks below this share of the largest are rounding of float32 factors, as are those whose parts cancel
# to less than this: they are made of nothing.
SMALLEST = 2.0**-20
# Rows and columns widened to float64 at a time.
ROWS, COLUMNS = 1024, 1024


@dataclass(frozen=True, slots=True)
class Lineage:
    """The lineage of one merged site.

    Attributes:
        at: Position of an MSU in canonical order, for each share that is named, shape (m,), int64.
        ranks: The merged rank that it is part of, shape (m,), int64.
        shares: Its signed share there, shape (m,), float64.
        adapters: Adapters that have shares beside these, shape (t,), int64.
        rest: The sum of those, over all merged ranks, shape (t,), float64.
    """

    at: Tensor
    ranks: Tensor
    shares: Tensor
    adapters: Tensor
    rest: Tensor

    @classmethod
    def of_each(cls, ranks: Tensor, shares: Tensor) -> Lineage:
        """One in which each MSU is part of one merged rank at most, so that all are named.

        Args:
            ranks: The merged rank of each MSU of the pool, shape (n,), int64.
            shares: Its share there, shape (n,), float64; 0 if it is part of none.
        """
        at = shares.nonzero()[:, 0]
        nobody = torch.zeros(0, dtype=torch.int64)
        return cls(at, ranks[at], shares[at], nobody, nobody.double())


@dataclass(frozen=True, slots=True)
class Part:
    """What some MSUs of a pool say of its lineage.

    Attributes:
        at: Position in canonical order of those with the largest shares of each merged rank, the largest
            first, shape (m, k), int64.
        adapters: Adapter of each of them, shape (m, k), int64.
        shares: Their shares, shape (m, k), float64.
        magnitudes: Sum of the magnitudes of all shares of each merged rank, shape (k,), float64.
        having: Adapters of these MSUs, shape (t,), int64.
        totals: Sum of all shares of each of those, shape (t,), float64.
    """

    at: Tensor
    adapters: Tensor
    shares: Tensor
    magnitudes: Tensor
    having: Tensor
    totals: Tensor


def lineage_of_products(products: Tensor, adapters: Tensor, norms: Tensor | None = None) -> Lineage:
    """The lineage of a pool in memory.

    Args:
        products: `m_ji`, each rank's times any factor, in canonical order, shape (n, k), float64.
        adapters: Adapter of each MSU, shape (n,), int64.
        norms: Those factors, shape (k,), float64; None for 1.
    """
    products = products.cpu()
    sums = torch.stack([products.sum(dim=0), products.abs().sum(dim=0)])
    norms = torch.ones(len(sums[0]), dtype=torch.float64) if norms is None else norms
    most = _most(*products.shape)
    part = _part(products, _values(sums, norms), torch.arange(len(adapters)), adapters, most)
    return _lineage([part], most)


def lineage_of_rows(
    pool: Pool | SpreadPool, merged: Tensor, owners: Tensor | None = None
) -> Lineage:
    """The lineage of merged ranks that lie along singular vectors of what they are made of.

    Of a pool in shards, products are computed twice: for their sums, and for the shares.

    Args:
        pool: The pool; one in memory in canonical order.
        merged: Rows `[a' ; b']` along `[v_i ; u_i]`, of any norm, shape (k, d).
        owners: For a pool in shards: the one adapter that each rank is made of, shape (k,), int64; None
            for all.
    """
    merged, d_in = merged.double(), pool.d_in
    norms = torch.linalg.vector_norm(merged[:, :d_in], dim=1)
    norms = (norms * torch.linalg.vector_norm(merged[:, d_in:], dim=1)).cpu()
    if isinstance(pool, Pool):
        return lineage_of_products(products_with(pool.rows, d_in, merged), pool.adapters, norms)
    merged = merged.cpu()
    nothing = torch.zeros(2, len(merged), dtype=torch.float64)
    values = _values(sum(pool.shards.map(shard_sums, merged, owners), nothing), norms)
    most = _most(pool.n, len(merged))
    places = pool.split(torch.arange(pool.n))
    return _lineage(
        list(pool.shards.map(shard_part, merged, owners, values, most, own=places)), most
    )


def products_with(rows: Tensor, d_in: int, merged: Tensor) -> Tensor:
    """`(a_j . a'_i) (b_j . b'_i)` of MSUs with merged rows, shape (n, k), float64.

    Args:
        rows: MSUs, shape (n, d), float32.
        d_in: Length of the `a` half.
        merged: Merged rows, shape (k, d), float32 or float64.
    """
    merged = merged.to(rows.device)
    out = torch.ones(len(rows), len(merged), dtype=torch.float64, device=rows.device)
    for start, end in ((0, d_in), (d_in, rows.shape[1])):
        half = torch.zeros_like(out)
        for left in range(start, end, COLUMNS):
            some = slice(left, min(left + COLUMNS, end))
            half.addmm_(rows[:, some].double(), merged[:, some].double().T)
        out *= half
    return out


def shard_sums(shard: Shard, merged: Tensor, owners: Tensor | None) -> Tensor:
    """Sums over a shard's MSUs of `m_ji` and of its magnitude, shape (2, k), float64.

    Args:
        shard: The shard.
        merged: As for `lineage_of_rows`.
        owners: As for `lineage_of_rows`.
    """
    out = torch.zeros(2, len(merged), dtype=torch.float64)
    for some in chunks(shard.pool.n, ROWS):
        products = _products(shard, some, merged, owners)
        out[0] += products.sum(dim=0)
        out[1] += products.abs().sum(dim=0)
    return out


def shard_part(
    shard: Shard, places: Tensor, merged: Tensor, owners: Tensor | None, values: Tensor, most: int
) -> Part:
    """A shard's part of the lineage.

    Args:
        shard: The shard.
        places: Position of each of its MSUs in the pool's canonical order, shape (n,), int64.
        merged: As for `lineage_of_rows`.
        owners: As for `lineage_of_rows`.
        values: `sum_j m_ji` of the whole pool, NaN for a rank that is made of nothing, shape (k,).
        most: Shares of a rank that may be named.
    """
    adapters = shard.pool.adapters
    parts = [
        _part(_products(shard, some, merged, owners), values, places[some], adapters[some], most)
        for some in chunks(shard.pool.n, ROWS)
    ]
    return _together(parts, most)


def _products(shard: Shard, some: slice, merged: Tensor, owners: Tensor | None) -> Tensor:
    products = products_with(shard.pool.rows[some], shard.pool.d_in, merged).cpu()
    if owners is not None:
        products *= shard.pool.adapters[some, None] == owners
    return products


def _most(n: int, k: int) -> int:
    """How many shares of a rank may be named."""
    return min(max(-(-n // max(k, 1)), FEWEST), MOST)


def _values(sums: Tensor, norms: Tensor) -> Tensor:
    """What shares are of: `sum_j m_ji`, or NaN for a rank that is made of nothing."""
    value = torch.where(norms > 0, sums[0] / norms, 0.0)
    there = (value > SMALLEST * value.max()) & (sums[0] > SMALLEST * sums[1])
    return torch.where(there, sums[0], torch.nan)


def rounded(shares: Tensor) -> Tensor:
    """Shares on their grid, float64; 0 for one that is not a number."""
    return (shares / GRID).round_().nan_to_num_(nan=0.0).mul_(GRID)


def _part(products: Tensor, values: Tensor, places: Tensor, adapters: Tensor, most: int) -> Part:
    """The part of some MSUs, from their products, shape (n, k)."""
    shares = rounded(products / values)
    having, number = torch.unique(adapters, return_inverse=True)
    totals = torch.zeros(len(having), dtype=torch.float64)
    totals.index_add_(0, number, shares.sum(dim=1))
    size = shares.shape
    at, whose = places[:, None].expand(size), adapters[:, None].expand(size)
    first = _first(at, whose, shares, most)
    return Part(*first, shares.abs().sum(dim=0), having, totals)


def _first(
    at: Tensor, adapters: Tensor, shares: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest shares of each rank, the largest first; of equals, that of the first MSU."""
    if bool((at[1:] < at[:-1]).any()):
        order = torch.argsort(at, dim=0)
        at, adapters, shares = (each.gather(0, order) for each in (at, adapters, shares))
    order = torch.argsort(shares.abs(), dim=0, descending=True, stable=True)[:most]
    return at.gather(0, order), adapters.gather(0, order), shares.gather(0, order)


def _together(parts: Sequence[Part], most: int) -> Part:
    """Parts as one."""
    if len(parts) == 1:
        return parts[0]
    having, number = torch.unique(torch.cat([p.having for p in parts]), return_inverse=True)
    totals = torch.zeros(len(having), dtype=torch.float64)
    totals.index_add_(0, number, torch.cat([part.totals for part in parts]))
    at, adapters, shares = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("at", "adapters", "shares")
    )
    magnitudes = torch.stack([part.magnitudes for part in parts]).sum(dim=0)
    return Part(*_first(at, adapters, shares, most), magnitudes, having, totals)


def _lineage(parts: Sequence[Part], most: int) -> Lineage:
    """The lineage of all MSUs, from the parts of all of them."""
    found = _together(parts, most)
    sizes = found.shares.abs()
    before = torch.cumsum(sizes, 0) - sizes  # of each rank, exact
    rank, place = ((before < NAMED * found.magnitudes) & (sizes > 0)).T.nonzero().unbind(1)
    shares = found.shares[place, rank]
    rest = found.totals.clone()
    whose = torch.searchsorted(found.having, found.adapters[place, rank])
    rest.index_add_(0, whose, -shares)
    left = rest.nonzero()[:, 0]
    return Lineage(found.at[place, rank], rank, shares, found.having[left], rest[left])
