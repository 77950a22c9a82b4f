"""Chooses ranks by what was measured: spectra of the sums of updates, site by site. Pure.

With `s_i` the singular values of a site's sum, the nearest adapter of rank k is at distance
`sqrt(sum_{i>k} s_i^2)`; over all sites together the squares add up.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lego_ray.lazy import NDArray, np
from lego_ray.planning.options import DEFAULT_ERROR
from lego_ray.planning.plan import RankError
from lego_ray.planning.recipe import Recipe

# Errors nearer to a bound than this share of it keep it, so that rounding never chooses a rank.
SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What a site's sum of updates is made of.

    Attributes:
        site: Module path.
        width: d_in + d_out, the parameters of one merged rank.
        energies: Squared singular values, largest first, shape (m,), float64, at least one.
    """

    site: str
    width: int
    energies: NDArray[np.float64]

    @property
    def left(self) -> NDArray[np.float64]:
        """Squared distance of the nearest adapter of rank 0, 1, ..., m, shape (m + 1,)."""
        return np.append(np.cumsum(self.energies[::-1])[::-1], 0.0)

    @property
    def n_terms(self) -> int:
        """The rank at which nothing is left, at least 1."""
        return max(1, int(np.count_nonzero(self.energies)))


def with_ranks(recipe: Recipe, spectra: Sequence[Spectrum]) -> Recipe:
    """The recipe with its ranks chosen.

    Args:
        recipe: One whose ranks are open.
        spectra: Those of all its sites, in plan order.
    """
    if recipe.rank_budget is not None:
        ranks = ranks_for_budget(spectra, recipe.rank_budget)
        return replace(recipe, rank=max(ranks.values()), ranks=ranks)
    return replace(recipe, rank=rank_for_error(spectra, recipe.rank_error or DEFAULT_ERROR))


def rank_for_error(spectra: Sequence[Spectrum], bound: float) -> int:
    """The smallest k for which the nearest adapter of rank k at all sites is near enough.

    Args:
        spectra: Those of all sites.
        bound: Largest relative error, `sqrt(sum_sites sum_{i>k} s_i^2 / sum_sites sum_i s_i^2)`.
    """
    left = _left_at_each_rank(spectra)
    near = left <= bound**2 * left[0] * (1 + SLACK)
    return max(1, int(np.argmax(near)))


def ranks_for_budget(spectra: Sequence[Spectrum], budget: int) -> dict[str, int]:
    """Spreads as many parameters as rank `budget` has at every site to where they lower the error most.

    Each site gets rank 1; then, again and again, the one rank that lowers the squared error most for
    its parameters. A site's ranks are worth ever less, so as long as the best one fits, no ranks of as
    many parameters leave less error; what then remains, less than a rank of a wide site, goes to the
    best that fit. Ranks that lower nothing are not taken.

    Args:
        spectra: Those of all sites, in plan order, which breaks what ties are left.
        budget: k.

    Returns:
        Rank of each site.
    """
    ranks = {s.site: 1 for s in spectra}
    room = (budget - 1) * sum(s.width for s in spectra)
    waiting = [entry for at, s in enumerate(spectra) if (entry := _next(s, at, 1))]
    heapq.heapify(waiting)
    while waiting:
        *_, at = heapq.heappop(waiting)
        spectrum = spectra[at]
        if spectrum.width > room:
            continue
        room -= spectrum.width
        ranks[spectrum.site] += 1
        if entry := _next(spectrum, at, ranks[spectrum.site]):
            heapq.heappush(waiting, entry)
    return ranks


def nearest_error(spectra: Sequence[Spectrum], recipe: Recipe) -> float:
    """Relative error, over all sites, of the nearest adapter of a recipe's ranks; 0 to a sum of zero.

    It is rounded to six digits, because a site in shards is measured with other rounding.

    Args:
        spectra: Of every site.
        recipe: With its ranks chosen.

    Returns:
        A ratio, 0 to 1.
    """
    total = sum(float(s.left[0]) for s in spectra)
    left = sum(float(s.left[min(recipe.rank_of(s.site), len(s.energies))]) for s in spectra)
    return float(f"{_root(left, total):.6g}")


def error_table(spectra: Sequence[Spectrum], more: Sequence[int] = ()) -> tuple[RankError, ...]:
    """Error against k, for k = 1, 2, 4, ... up to where nothing is left.

    Args:
        spectra: Those of all sites.
        more: Other ranks to tell, if they are no larger than that.
    """
    most = max(s.n_terms for s in spectra)
    powers = {2**i for i in range(most.bit_length())}
    ranks = sorted(k for k in powers | {most} | set(more) if 1 <= k <= most)
    left = _left_at_each_rank(spectra)
    return tuple(_error(spectra, k, float(left[k]), float(left[0])) for k in ranks)


def _error(spectra: Sequence[Spectrum], k: int, left: float, total: float) -> RankError:
    own = [_root(float(s.left[min(k, len(s.energies))]), float(s.left[0])) for s in spectra]
    worst = max(range(len(own)), key=lambda at: (own[at], -at))
    return RankError(k, _root(left, total), spectra[worst].site, own[worst])


def _left_at_each_rank(spectra: Sequence[Spectrum]) -> NDArray[np.float64]:
    """Squared distance over all sites at rank 0, 1, ... everywhere."""
    left = np.zeros(1 + max(len(s.energies) for s in spectra))
    for spectrum in spectra:
        left[: len(spectrum.energies) + 1] += spectrum.left
    return left


def _next(spectrum: Spectrum, at: int, rank: int) -> tuple[float, int, int] | None:
    """What one more rank is worth a parameter, most first, ties to sites of fewer; None if nothing."""
    if rank >= spectrum.n_terms:
        return None
    # In float32, so that ranks worth the same are equal whatever their rounding.
    return -float(np.float32(spectrum.energies[rank] / spectrum.width)), rank, at


def _root(left: float, total: float) -> float:
    return float((left / total) ** 0.5) if total > 0 else 0.0
