"""The option that methods share which drop entries."""

from __future__ import annotations

from typing import get_args

import torch

from lego_ray.errors import InvalidOption
from lego_ray.numerics.sparsify import Sparsity
from lego_ray.numerics.stacks import Election


def check_density(density: float) -> None:
    """Raises `InvalidOption` unless the share of entries that stay is above 0 and at most 1."""
    number = isinstance(density, int | float) and not isinstance(density, bool)
    if not number or not 0 < density <= 1:
        raise InvalidOption("--density", f"{density!r} is not above 0 and at most 1")


def check_election(election: Election) -> None:
    """Raises `InvalidOption` if signs cannot be elected so."""
    if election not in get_args(Election):
        raise InvalidOption(
            "--election", f"{election!r} is not one of {', '.join(get_args(Election))}"
        )


def at_random(density: float, generator: torch.Generator) -> Sparsity:
    """Drops entries at random: one draw of the site's generator, then each row by its own bytes."""
    draw = int(torch.randint(2**62, (1,), generator=generator))
    return Sparsity("random", density, draw)
