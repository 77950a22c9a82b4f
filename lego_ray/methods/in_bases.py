"""What the methods share that merge adapters as coordinates in bases they have in common.

What is merged there, and how, is one choice and the bases another: `inner` is the same for all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lego_ray.errors import InvalidOption
from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.density import draw_of
from lego_ray.methods.names import METHODS, check_options, keyword
from lego_ray.methods.whole import Whole, members_of, solution_of
from lego_ray.numerics.costs import MATMUL_64, TOUCH, Costs
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd
from lego_ray.numerics.elect import PASSES, Tensors, prevailing, thinned, total
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.stacks import Election

Inner = Literal["sum", "ties", "dare_ties"]

# The options that each has, with their defaults: TIES' own, and for DARE what those who use both drop.
_TAKEN = {"sum": (), "ties": ("density", "election")}
_TAKEN["dare_ties"] = (*_TAKEN["ties"], "dare_density")
DEFAULTS: Mapping[str, Mapping[str, float | str]] = {
    inner: {name: keyword(name).option.default for name in names} for inner, names in _TAKEN.items()
}

_DEFAULTS = METHODS["core_space"].options


@dataclass(frozen=True, slots=True)
class Bases:
    """What adapters are in the bases that they share.

    Attributes:
        tensors: Makes each adapter's coordinates in turn, shape (p, q), float64.
        left: For each MSU the left factor of its coordinates, which are of rank one and add up to those
            of its adapter, shape (p, n).
        right: The right factor, shape (q, n).
        decompose: Decomposes the update that coordinates stand for.
        sides: For a decomposition and k what its first k terms are in coordinates, shapes (p, k') and
            (q, k'): `x_i^T M y_i` of coordinates M is `u_i^T W v_i` of their update W.
    """

    tensors: Tensors
    left: Tensor
    right: Tensor
    decompose: Callable[[Tensor], UpdateSvd]
    sides: Callable[[UpdateSvd, int], tuple[Tensor, Tensor]]

    def products(
        self, found: UpdateSvd, rank: int, factors: Tensors | None, members: Sequence[Tensor]
    ) -> Tensor:
        """What each MSU is of the first terms of the merged update, shape (n, k'), float64.

        Args:
            found: The merged update.
            rank: k.
            factors: Makes what each entry of an adapter's coordinates counts for; None for 1.
            members: Positions of each adapter's MSUs.
        """
        x, y = self.sides(found, rank)
        if factors is None:
            return (self.left.T @ x) * (self.right.T @ y)
        out = self.left.new_empty(self.left.shape[1], x.shape[1])
        for at, weights in zip(members, factors(), strict=True):
            # In float32, as fine as shares are: this product takes most of the time of a lineage.
            right = (self.right[:, at, None] * y[:, None, :]).float()
            counted = (weights.float() @ right.flatten(1)).view(-1, *right.shape[1:])
            out[at] = torch.einsum("pj,pi,pji->ji", self.left[:, at], x, counted.double())
        return out


@dataclass(frozen=True, slots=True)
class InBases(Whole):
    """A method that merges each adapter's coordinates and keeps the first k terms of the outcome.

    Attributes:
        inner: How coordinates are merged: by their `sum`, which is task arithmetic; by `ties`
            (arXiv 2306.01708); or by `dare_ties`, which drops some at random before (arXiv 2311.03099).
        density: `ties` and `dare_ties`: share of an adapter's entries that stay, the largest.
        election: `ties` and `dare_ties`: how an entry's sign is elected, by the `total` of the
            adapters' values or by the `frequency` of each sign.
        dare_density: `dare_ties`: share of the entries that the random draw leaves.
    """

    inner: Inner = _DEFAULTS["inner"]
    density: float | None = None
    election: Election | None = None
    dare_density: float | None = None

    def __post_init__(self) -> None:
        check_options(self)
        defaults = DEFAULTS[self.inner]
        for option in ("density", "election", "dare_density"):
            given = getattr(self, option)
            if given is not None and option not in defaults:
                takers = [name for name, options in DEFAULTS.items() if option in options]
                raise InvalidOption(
                    f"--{option.replace('_', '-')}",
                    f"the inner merge {self.inner} does not have this option",
                    f"Take --inner {' or '.join(takers)}, or leave it out.",
                )
            object.__setattr__(self, option, defaults.get(option) if given is None else given)

    @abstractmethod
    def bases(self, pool: Pool, rank: int) -> Bases:
        """Finds the bases.

        Args:
            pool: The pool, in canonical order.
            rank: k.
        """

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The merged coordinates' first terms; see `Whole.merged`."""
        bases = self.bases(pool, rank)
        coordinates, factors = self._merge(bases.tensors, generator)
        found = bases.decompose(coordinates)
        rows = found.rows(rank).float()
        products = bases.products(found, rank, factors, members_of(pool))
        return solution_of(pool, rows, products)

    def _merge(self, tensors: Tensors, generator: torch.Generator) -> tuple[Tensor, Tensors | None]:
        """Merged coordinates; and what each adapter's count for in them, None for 1."""
        if self.density is None or self.election is None:
            return total(tensors), None
        if self.dare_density is not None:
            tensors = thinned(tensors, self.dare_density, draw_of(generator))
        found = prevailing(tensors, self.density, self.election)
        if self.dare_density is None:
            return found.merged, found.factors
        grown = 1 / self.dare_density
        return found.merged, lambda: (each * grown for each in found.factors())

    def inner_costs(self, found: Costs, n: int, rank: int, values: int) -> Costs:
        """What it takes to merge coordinates, apart from finding them.

        Args:
            found: What it takes to find them.
            n: MSUs, of n / k adapters or so.
            rank: k.
            values: Entries of an adapter's coordinates.
        """
        passes = 3 if self.inner == "sum" else PASSES
        adapters = max(1, n // max(rank, 1))
        # Products of coordinates with the merged terms, for the lineage.
        seconds = adapters * values * passes * TOUCH + (2 + rank) * n * values / MATMUL_64
        return Costs(found.seconds + seconds, found.workspace_bytes + 8 * 16 * values)
