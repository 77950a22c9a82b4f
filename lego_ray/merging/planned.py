"""A merge that is planned, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe
from lego_ray.storage.uri import Place


@dataclass(frozen=True, slots=True)
class Planned:
    """One merge of a library.

    Attributes:
        recipe: What to make.
        inventory: Of which adapters.
        place: Where it goes.
        plan: The plan of that.
    """

    recipe: Recipe
    inventory: Inventory
    place: Place
    plan: Plan

    @property
    def output(self) -> str:
        """Where it goes, as records have it."""
        return str(self.place)
