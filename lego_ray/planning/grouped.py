"""From cosines of adapters' updates to groups with names, and to what each group is merged by. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lego_ray.catalog.ids import ids_that_begin
from lego_ray.formats.record import AdapterRecord
from lego_ray.methods.similarity import Similarity
from lego_ray.numerics.similarity.grouping import group
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.naming import agreed_names
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan, tally_sites
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.scales import means_site
from lego_ray.planning.weights import means

# Digits of a cosine that are reported, and by which groups are compared.
DIGITS = 6

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Member:
    """An adapter of a grouping.

    Attributes:
        adapter: The adapter.
        group: Name of its group; empty if it stays alone.
        similarity: Mean cosine of its update to those of the group's other members; None if alone.
        nearest_group: Name of the other group it is most like; None if there is no other.
        nearest_similarity: Mean cosine to that group's members; None in the same case.
    """

    adapter: AdapterRecord
    group: str
    similarity: float | None
    nearest_group: str | None
    nearest_similarity: float | None

    def as_json(self) -> dict[str, Any]:
        """What is reported of it, except for its group."""
        return {
            "adapter": self.adapter.uri,
            "adapter_id": self.adapter.adapter_id,
            "similarity": self.similarity,
            "nearest_group": self.nearest_group,
            "nearest_similarity": self.nearest_similarity,
        }


@dataclass(frozen=True, slots=True)
class Grouping:
    """A partition of some adapters into groups of at least two, and adapters that stay alone.

    Attributes:
        name: What the groups are named after.
        options: How it was asked for.
        members: Every adapter, in inventory order.
        inventory: The same adapters, and those refused.
        silhouette: Mean silhouette of the cut; None where it is not defined.
        digest: Of the plan that measured it.
        former: What earlier releases would have called that plan.
    """

    name: str
    options: GroupOptions
    members: tuple[Member, ...]
    inventory: Inventory
    silhouette: float | None
    digest: str
    former: str = ""

    @property
    def groups(self) -> dict[str, tuple[Member, ...]]:
        """Members of each group by its name, groups in order, members in inventory order."""
        names = {m.group for m in self.members if m.group}
        ordered = sorted(names, key=lambda name: int(name.rpartition("-")[2]))
        return {name: tuple(m for m in self.members if m.group == name) for name in ordered}

    @property
    def alone(self) -> tuple[Member, ...]:
        """Adapters that are put with no other."""
        return tuple(m for m in self.members if not m.group)

    def inventory_of(self, group_name: str) -> Inventory:
        """A group's adapters, and those refused."""
        members = tuple(m.adapter for m in self.members if m.group == group_name)
        others = len(self.inventory.adapters) - len(members)
        return replace(
            self.inventory, adapters=members, not_chosen=self.inventory.not_chosen + others
        )


def plan_similarity(
    recipe: Recipe, inventory: Inventory, *, memory_budget: int
) -> tuple[Plan, Similarity]:
    """Plans to measure how alike the updates of an entry's adapters are, as they are weighted.

    Adapters of weight 0 are left out. Method and rank have no say in it.

    Args:
        recipe: What is to be made of each group.
        inventory: The adapters.
        memory_budget: Most bytes one worker may take.

    Returns:
        A plan whose tasks are to be measured, not solved, and how.

    Raises:
        BadInput: If the adapters do not go together, or the recipe names what there is not.
    """
    ranks = [t.ranks for t in tally_sites(inventory.adapters)]
    least = min((min(each) for each in ranks), default=1)
    work = Similarity(len(inventory.adapters), least)
    neutral = replace(
        recipe,
        rank=1,
        rank_error=None,
        rank_budget=None,
        ranks={},
        method="lego",
        options={},
        output_scale=1.0,
        spectrum=1.0,
    )
    return make_plan(neutral, inventory, memory_budget=memory_budget, work=work), work


def grouping_of(plan: Plan, inventory: Inventory, cosines: Matrix, how: GroupOptions) -> Grouping:
    """Puts adapters into groups by their cosines.

    Groups are named after the plan's recipe, `name-1`, `name-2`, ...: larger ones first, of equals the
    one whose members are more alike, then the one with the adapter of the least adapter_id. An adapter
    whose group would be of itself alone is in none.

    Args:
        plan: What measured them.
        inventory: What that was a plan of.
        cosines: Of the plan's adapters, shape (T, T).
        how: What was asked for.
    """
    found = group(cosines, how.count, how.alone_below)
    numbers = list(_in_order(found.labels, found.similarity))
    names = {number: f"{plan.recipe.name}-{at}" for at, number in enumerate(numbers, 1)}
    measured = {a.uri for a in plan.adapters}
    # As they came: the plan may have left weights that are not low-rank to one of them.
    # Under the names that the plan's sites have, so that groups and what is asked of sites agree.
    adapters = agreed_names(
        [a for a in inventory.adapters if a.uri in measured],
        plan.format,
        plan.recipe.layout,
        plan.base_model,
    )
    nearest = _nearest(cosines, found.labels, numbers)
    members = []
    for at, adapter in enumerate(adapters):
        name = names.get(int(found.labels[at]), "")
        similarity = _told(found.similarity[at]) if name else None
        near, how_near = nearest[at]
        members.append(Member(adapter, name, similarity, names.get(near), how_near))
    silhouette = None if found.silhouette is None else _told(found.silhouette)
    kept = replace(inventory, adapters=adapters)
    return Grouping(
        plan.recipe.name, how, tuple(members), kept, silhouette, plan.digest, plan.former
    )


def recipe_of_group(recipe: Recipe, name: str, inventory: Inventory) -> Recipe:
    """An entry's recipe for one of its groups: as it is, without names of what is in others.

    Args:
        recipe: The entry's.
        name: The group's name.
        inventory: Its adapters.
    """
    uris = [a.uri for a in inventory.adapters]
    sites = {f.site for a in inventory.adapters for f in a.sites}
    mode, _, kept = recipe.full_weights.partition(":")
    is_kept_here = any(uri == kept or uri.rstrip("/").rsplit("/", 1)[-1] == kept for uri in uris)
    return replace(
        recipe,
        name=name,
        weights={
            n: w
            for n, w in recipe.weights.items()
            if any(means(n, uri) for uri in uris)
            or ids_that_begin(n, (a.adapter_id for a in inventory.adapters))
        },
        site_scales={
            n: c for n, c in recipe.site_scales.items() if any(means_site(n, s) for s in sites)
        },
        full_weights="drop" if mode == "keep" and not is_kept_here else recipe.full_weights,
    )


def _in_order(labels: NDArray[np.int64], similarity: Matrix) -> Iterator[int]:
    """Labels of the groups of two and more, in the order they are numbered."""
    ranked = []
    for label in range(int(labels.max()) + 1):
        at = np.flatnonzero(labels == label)
        if len(at) > 1:
            ranked.append((-len(at), -_told(similarity[at].mean()), int(at[0]), label))
    yield from (label for *_, label in sorted(ranked))


def _nearest(
    cosines: Matrix, labels: NDArray[np.int64], numbers: list[int]
) -> list[tuple[int, float | None]]:
    """For each adapter the group, of those given, that it is most like, except its own; -1 for none."""
    if not numbers:
        return [(-1, None)] * len(labels)
    member = np.stack([labels == number for number in numbers], axis=1).astype(np.float64)
    means_ = np.round(cosines @ member / member.sum(axis=0), DIGITS)
    means_[member > 0] = -np.inf
    best = means_.argmax(axis=1)
    found = means_[np.arange(len(labels)), best]
    return [
        (numbers[at], float(value)) if np.isfinite(value) else (-1, None)
        for at, value in zip(best.tolist(), found, strict=True)
    ]


def _told(value: float) -> float:
    return round(float(value), DIGITS)
