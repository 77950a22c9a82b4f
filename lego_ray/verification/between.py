"""Inner products between the updates of several merges, site by site, from their factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lego_ray.errors import InvalidOption, VerificationFailed
from lego_ray.formats.record import AdapterRecord
from lego_ray.lazy import torch
from lego_ray.methods.base import Route, SpreadCosts
from lego_ray.numerics.costs import MATMUL_64, Costs
from lego_ray.numerics.similarity.inner_products import BLOCK, update_products
from lego_ray.planning.by_head import is_by_heads
from lego_ray.planning.cutting import cut_into_tasks
from lego_ray.planning.inventory import as_convolutions, shape_of
from lego_ray.planning.naming import named_as
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import tally_sites
from lego_ray.planning.recipe import Recipe
from lego_ray.sources.headers import Counted, untold
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.read import extract
from lego_ray.tasks.solve import one_thread


@dataclass(frozen=True, slots=True)
class SiteProducts:
    """A module in every merge that has it.

    Attributes:
        site: Its name.
        merges: Numbers of the merges that have it.
        products: `<W_i, W_j>` of all merges, shape (M, M), float64; 0 for those that lack it.
    """

    site: str
    merges: frozenset[int]
    products: NDArray[np.float64]


class _Between:
    """What the products take at a site, as `PoolCosts`."""

    name = "compare"

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """One, called `whole`: all pairs of rows, and the rows in float64 beside them."""
        d = d_in + d_out
        return [Route("whole", Costs(n * n * d / MATMUL_64, 16 * n * d + 24 * BLOCK * BLOCK))]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """None: ranks of merges are few enough for one worker."""
        return None


def named_alike(adapters: Sequence[AdapterRecord], layout: str) -> tuple[AdapterRecord, ...]:
    """Merged adapters, each module under the name that the first merge with it has.

    Args:
        adapters: The merged adapters.
        layout: What the first is written in.
    """
    known: dict[str, tuple[int, int]] = {}
    named: list[AdapterRecord] = []
    for adapter in adapters:
        by_heads = is_by_heads(adapters[0].config)
        [mine] = named_as([adapter], known, layout, by_heads=by_heads) if known else [adapter]
        named.append(mine)
        known = {**{f.site: (f.d_in, f.d_out) for f in mine.sites}, **known}
    return as_convolutions(named)


def sites_of_two_shapes(adapters: Sequence[AdapterRecord]) -> frozenset[str]:
    """Names of modules whose shape differs between merges, so that they cannot be compared.

    Args:
        adapters: The merged adapters, as `named_alike` has them.
    """
    shapes: dict[str, set[object]] = {}
    for adapter in adapters:
        for factors in adapter.sites:
            shapes.setdefault(factors.site, set()).add(shape_of(factors))
    return frozenset(site for site, found in shapes.items() if len(found) > 1)


def products_between(
    adapters: Sequence[AdapterRecord],
    recipe: Recipe,
    memory_budget: int,
    progress: Counted = untold,
) -> list[SiteProducts]:
    """Inner products of the updates of all pairs of merges, `<B_1 A_1, B_2 A_2>`, without forming them.

    Args:
        adapters: The merged adapters, without modules whose shapes differ.
        recipe: A recipe, for its ranks.
        memory_budget: Most bytes to take.
        progress: Called with the number of sites that are done, and of those there are.

    Returns:
        One a site, in layer order.

    Raises:
        InvalidOption: If the budget does not hold the merges at one site.
        VerificationFailed: If a value of a merge is not finite.
    """
    if not any(adapter.sites for adapter in adapters):
        return []
    plan = _plan(adapters, recipe, memory_budget)
    found: list[SiteProducts] = []
    n = len(adapters)
    with one_thread():
        for task in tasks_of(plan, full_weights=False):
            extraction = extract(task, as_stored=True)
            for number, error in extraction.quarantined.items():
                raise VerificationFailed(adapters[number].uri, error.problem, "Merge again.")
            for site in task.plan.sites:
                factor = torch.zeros(n, 1, dtype=torch.float64)
                having = set()
                for number, scalings in extraction.scalings.items():
                    if site.site in scalings:
                        factor[number] = scalings[site.site]
                        having.add(number)
                pool = extraction.pools.pop(site.site)
                products = update_products(pool, n) * factor * factor.T
                found.append(SiteProducts(site.site, frozenset(having), products.numpy()))
            progress(len(found), plan.n_sites)
    return found


def _plan(adapters: Sequence[AdapterRecord], recipe: Recipe, memory_budget: int) -> Plan:
    """Tasks that read all merges at some sites."""
    try:
        tasks = tuple(cut_into_tasks(tally_sites(adapters), recipe, memory_budget, _Between()))
    except InvalidOption as error:
        raise InvalidOption(
            error.where,
            f"it does not hold {len(adapters)} merges at one module",
            "Raise it, or compare fewer merges at once.",
        ) from error
    return Plan(
        recipe=recipe,
        base_model=adapters[0].base_model,
        dtype=adapters[0].dtype,
        format=adapters[0].format,
        adapters=tuple(adapters),
        weights=tuple(1.0 for _ in adapters),
        refused=(),
        tasks=tasks,
        memory_budget=memory_budget,
        warnings=(),
        digest="compare",
    )
