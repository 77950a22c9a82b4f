"""Similarities of adapters' updates, site by site: measured apart, added up, turned into cosines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lego_ray.lazy import NDArray, np, torch
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.similarity.inner_products import (
    BLOCK,
    WIDTH,
    cosines,
    update_products,
    update_sketches,
)

# Cosines are rounded to so many digits: what is left of the rounding of sums in another order, as of
# tasks cut for another memory budget, must decide nothing.
DIGITS = 9

if TYPE_CHECKING:
    Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SimilarityPart:
    """What some sites say together of how alike some adapters are.

    Attributes:
        members: Numbers of the adapters that have these sites, ascending, shape (m,), int64.
        values: Inner products of their updates, shape (m, m); or else their sketches, shape
            (m, WIDTH * WIDTH); float64.
        exact: Whether they are products.
    """

    members: NDArray[np.int64]
    values: Matrix
    exact: bool


def part_of(pool: Pool, *, exact: bool, seed: int) -> SimilarityPart:
    """Measures one site.

    Args:
        pool: The site's MSUs, each adapter's all of them, in any order.
        exact: Whether by products of all pairs, or by sketches.
        seed: Of the site's generator.
    """
    members, numbers = torch.unique(pool.adapters, return_inverse=True)
    own = replace(pool, adapters=numbers)
    if exact:
        values = update_products(own, len(members))
    else:
        values = update_sketches(own, len(members), torch.Generator().manual_seed(seed))
    return SimilarityPart(members.numpy(), values.numpy(), exact)


def shard_part(shard: Shard, seed: int) -> SimilarityPart:
    """Sketches of the adapters in a shard, whose own they are whatever shards there are.

    Args:
        shard: The shard, which has all ranks of each of its adapters at this site.
        seed: Of the site's generator.
    """
    return part_of(shard.pool, exact=False, seed=seed)


def joined(parts: Iterable[SimilarityPart]) -> SimilarityPart:
    """One site's sketches of adapters that are in several shards, each adapter in one."""
    found = list(parts)
    members = np.concatenate([part.members for part in found])
    order = np.argsort(members)
    values = np.concatenate([part.values for part in found])
    return SimilarityPart(members[order], values[order], exact=False)


def added(parts: Iterable[SimilarityPart]) -> tuple[SimilarityPart, ...]:
    """Sites of the same adapters and kind as one part, added in their order; uses the parts up."""
    found: dict[tuple[bool, bytes], SimilarityPart] = {}
    for part in parts:
        key = (part.exact, part.members.tobytes())
        before = found.setdefault(key, part)
        if before is not part:
            np.add(before.values, part.values, out=before.values)
    return tuple(found.values())


class SimilaritySums:
    """What all sites say, added up part by part, in the order they are added.

    Args:
        n_adapters: T.

    Attributes:
        products: Those of exact parts, shape (T, T), float64.
    """

    def __init__(self, n_adapters: int) -> None:
        self.products = np.zeros((n_adapters, n_adapters))
        self._sketches: Matrix | None = None

    def add(self, part: SimilarityPart) -> None:
        """Adds some sites."""
        if part.exact:
            self.products[np.ix_(part.members, part.members)] += part.values
            return
        if self._sketches is None:
            self._sketches = np.zeros((len(self.products), WIDTH * WIDTH))
        self._sketches[part.members] += part.values

    def cosines(self) -> Matrix:
        """Cosines of whole updates, all sites together.

        Returns:
            Shape (T, T), symmetric, 1 on the diagonal, 0 to all others of an adapter in no part;
            rounded to `DIGITS`.
        """
        total = torch.from_numpy(self.products)
        if self._sketches is not None:
            wide = torch.from_numpy(self._sketches)
            total = total + wide @ wide.T
            total = (total + total.T) / 2
        found: Matrix = np.round(cosines(total).numpy(), DIGITS)
        return found


def cosines_bytes(n_adapters: int) -> int:
    """Most memory that `SimilaritySums` and grouping by its cosines take."""
    return 6 * 8 * n_adapters**2 + 2 * 8 * WIDTH * WIDTH * n_adapters


def products_bytes(n: int, d: int, n_adapters: int) -> int:
    """Memory of an exact part apart from its pool: rows in order and widened, products, earlier ones.

    Args:
        n: MSUs.
        d: Their width.
        n_adapters: Most adapters they are of.
    """
    return 16 * n * d + 4 * 8 * n_adapters**2 + 4 * 8 * min(BLOCK, n) ** 2


def sketch_bytes(d: int) -> tuple[int, int]:
    """Memory of a part of sketches apart from its pool: fixed, and for each adapter.

    Args:
        d: Width of the MSUs.
    """
    return 8 * WIDTH * d, 3 * 8 * WIDTH * WIDTH
