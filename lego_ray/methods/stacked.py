"""What the methods share that merge A and B apart, entry by entry and rank by rank.

They are those of PEFT's `add_weighted_adapter` without `_svd` in their names, with `sqrt(s)`, and so the
adapter's weight, folded into both halves before anything else is done. A sum of products is not the
product of sums: for adapters that share nothing expect cross terms as large as the updates themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import InvalidOption
from lego_ray.methods.names import METHODS, check_options
from lego_ray.methods.parted import Parted
from lego_ray.numerics.stacks import Election

_DEFAULTS = METHODS["dare_ties"].options


class Stacked(Parted):
    """A method whose merged rank i is made of rank i of every adapter."""

    __slots__ = ()

    def check_ranks(self, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
        """The merged adapter has the largest rank of its sources, and cannot have less."""
        site = max(ranks, key=lambda name: max(ranks[name]))
        needed = max(ranks[site])
        if rank < needed:
            raise InvalidOption(
                "--rank",
                f"{rank} is below the rank {needed} of a source at {site}, and the {self.name} method "
                "merges rank by rank",
                f"Give --rank {needed}, or use a method that lowers ranks, such as svd.",
            )


@dataclass(frozen=True, slots=True)
class Sparse(Stacked):
    """One that drops entries before.

    Attributes:
        density: Share of the entries of each A and each B that stay.
    """

    density: float = _DEFAULTS["density"]

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True)
class Elected(Sparse):
    """One that takes of each entry only the adapters of one sign.

    Attributes:
        density: Share of the entries of each A and each B that stay.
        election: How an entry's sign is elected: by the `total` of the adapters' values, or by the
            `frequency` of each sign.
    """

    election: Election = _DEFAULTS["election"]
