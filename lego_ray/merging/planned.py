"""A merge that is planned, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Planned:
    """One merge of a library.

    Attributes:
        recipe: What to make.
        inventory: Of which adapters.
        output: Where it goes.
        plan: The plan of that.
    """

    recipe: Recipe
    inventory: Inventory
    output: str
    plan: Plan
