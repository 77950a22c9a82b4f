"""Options that methods share which drop entries."""

from __future__ import annotations

from typing import get_args

import torch

from lego_ray.errors import InvalidOption
from lego_ray.numerics.sparsify import Sparsity
from lego_ray.numerics.stacks import Election


def check_share(value: float, flag: str, least: str = "above 0") -> None:
    """Passes a share that is a number of at most 1.

    Args:
        value: The share, a ratio.
        flag: The option, for the error.
        least: `above 0` or `at least 0`.

    Raises:
        InvalidOption: If it is not one.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1 or (value == 0 and least == "above 0"):
        raise InvalidOption(flag, f"{value!r} is not {least} and at most 1")


def check_density(density: float) -> None:
    """Raises `InvalidOption` unless the share of entries that stay is above 0 and at most 1."""
    check_share(density, "--density")


def check_election(election: Election) -> None:
    """Raises `InvalidOption` if signs cannot be elected so."""
    if election not in get_args(Election):
        raise InvalidOption(
            "--election", f"{election!r} is not one of {', '.join(get_args(Election))}"
        )


def at_random(density: float, generator: torch.Generator) -> Sparsity:
    """Drops entries at random: one draw of the site's generator, then each row by its own bytes.

    Args:
        density: Share of the entries that stay, a ratio.
        generator: The site's.
    """
    return Sparsity("random", density, draw_of(generator))


def draw_of(generator: torch.Generator) -> int:
    """One draw of the site's generator, from which more randomness is made."""
    return int(torch.randint(2**62, (1,), generator=generator))
