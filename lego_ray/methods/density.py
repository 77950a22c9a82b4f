"""Random drops, which several methods share."""

from __future__ import annotations

from lego_ray.lazy import torch
from lego_ray.numerics.sparsify import Sparsity


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
