"""A pass over all sites of a plan: what is done at each, what it gives, and what comes next.

A merge is one pass, `Merging`, or two where its ranks are chosen by measuring. A method that must look
at all sites before it merges adds a pass here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lego_ray.errors import SitesFailed
from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import PoolWork, SiteSolution
from lego_ray.methods.lego import Lego
from lego_ray.methods.measure import Measure
from lego_ray.methods.scaling import scaled
from lego_ray.methods.similarity import Similarity
from lego_ray.methods.sources_of_site import SiteSources
from lego_ray.methods.spectrum import with_spectrum
from lego_ray.methods.updatable import site_fit
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.spread import Shards, SpreadPool
from lego_ray.numerics.similarity.parts import SimilarityPart, added
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.ranks import Spectrum, nearest_error, with_ranks
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import SitePlan
from lego_ray.tasks.site_result import site_result
from lego_ray.tasks.values import SiteResult, TaskResult

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Following:
    """What comes after a pass.

    Attributes:
        recipe: What is to be made then.
        nearest_error: As in `Plan`.
    """

    recipe: Recipe
    nearest_error: float | None = None

    def plan(self, inventory: Inventory, memory_budget: int) -> Plan:
        """Plans it.

        Args:
            inventory: The adapters.
            memory_budget: Most bytes one worker may take.

        Raises:
            InvalidOption: If it fits no worker.
        """
        plan = make_plan(self.recipe, inventory, memory_budget=memory_budget)
        return replace(plan, nearest_error=self.nearest_error)


class Pass(ABC):
    """What is done at every site of a plan, once. Picklable, since it travels with each task.

    Attributes:
        stage: What a run's record calls the time that it takes.
        done: What the log says of a task of it.
        is_merge: Whether it gives merged sites; only then weights that pass through unmerged are read.
        finding: Dataclass of what it finds at a site, if that is to be kept for a run that goes on: its
            field `site` is the site's name, the others are numpy arrays or JSON values.
    """

    stage: str
    done: str
    is_merge: bool = False
    finding: type[Any] | None = None

    @property
    @abstractmethod
    def work(self) -> PoolWork:
        """What is done to a pool, as far as reading it needs to know."""

    @abstractmethod
    def at(self, site: SitePlan, pool: Pool) -> Any:
        """What it gives at a site.

        Args:
            site: The site.
            pool: Its MSUs.
        """

    @abstractmethod
    def at_spread(self, site: SitePlan, shards: Shards) -> Any:
        """The same of a pool in shards.

        Args:
            site: The site.
            shards: Its MSUs.
        """

    def with_found(self, result: TaskResult, found: Any) -> TaskResult:
        """A task's result with what one more of its sites gave.

        Args:
            result: The result so far.
            found: From `at` or `at_spread`.
        """
        return replace(result, found=(*result.found, found), n_found=result.n_found + 1)

    def then(self, asked: Recipe, plan: Plan, results: Sequence[TaskResult]) -> Following | None:
        """What comes after all sites are done; None after the last pass.

        Args:
            asked: The recipe as it was asked for.
            plan: The plan of this pass.
            results: All of its results.

        Raises:
            SitesFailed: If a site is missing from them.
        """
        return None


@dataclass(frozen=True, slots=True)
class Merging(Pass):
    """Merges each site by the recipe's method.

    Attributes:
        recipe: The recipe.
    """

    recipe: Recipe

    stage = "solve"
    done = "task done"
    is_merge = True

    @property
    def work(self) -> PoolWork:
        """The method."""
        return self.recipe.merge_method()

    def at(self, site: SitePlan, pool: Pool) -> SiteResult:
        """The merged site."""
        method = self.recipe.merge_method()
        return self._result(site, pool, method.solve(pool, site.rank, seeded(site), site.route))

    def at_spread(self, site: SitePlan, shards: Shards) -> SiteResult:
        """The merged site."""
        pool = SpreadPool(shards)
        solution = self.recipe.merge_method().solve_spread(pool, site.rank, seeded(site))
        return self._result(site, pool, solution)

    def with_found(self, result: TaskResult, found: Any) -> TaskResult:
        """Among `sites`."""
        return replace(result, sites=(*result.sites, found))

    def _result(
        self, site: SitePlan, pool: Pool | SpreadPool, solution: SiteSolution
    ) -> SiteResult:
        """A solution times the merge's scales, with what updates of it will need."""
        method, fit = self.recipe.merge_method(), None
        if self.recipe.updatable and isinstance(method, Lego):
            fit = site_fit(method, pool, solution, self.recipe.output_scale)
        sources = SiteSources(pool)
        solution = with_spectrum(solution, sources, self.recipe.spectrum)
        solution = scaled(solution, sources, self.recipe.output_scale, site.scale)
        return site_result(site, pool.d_in, solution, fit)


@dataclass(frozen=True, slots=True)
class Measuring(Pass):
    """Measures each site's spectrum, by which ranks are chosen."""

    stage = "measure"
    done = "task measured"
    finding = Spectrum

    @property
    def work(self) -> Measure:
        """The same whatever merges it then."""
        return Measure()

    def at(self, site: SitePlan, pool: Pool) -> Spectrum:
        """Its spectrum."""
        return _spectrum(site, self.work.measured(pool))

    def at_spread(self, site: SitePlan, shards: Shards) -> Spectrum:
        """Its spectrum."""
        return _spectrum(site, self.work.measured_spread(SpreadPool(shards)))

    def then(self, asked: Recipe, plan: Plan, results: Sequence[TaskResult]) -> Following:
        """The merge, at ranks chosen by what was measured, or at its own if it has them."""
        spectra: list[Spectrum] = found_at_all(plan, results)
        recipe = with_ranks(asked, spectra) if asked.is_open else asked
        return Following(recipe, nearest_error(spectra, recipe))


@dataclass(frozen=True, slots=True)
class Comparing(Pass):
    """Measures how similar the adapters are at each site, by which groups are found.

    Attributes:
        work: How.
    """

    work: Similarity

    stage = "compare"
    done = "task done"

    def at(self, site: SitePlan, pool: Pool) -> SimilarityPart:
        """The site's part of the similarities."""
        return self.work.measured(pool, site.route, site.seed)

    def at_spread(self, site: SitePlan, shards: Shards) -> SimilarityPart:
        """The site's part of the similarities."""
        return self.work.measured_spread(shards, site.seed)

    def with_found(self, result: TaskResult, found: Any) -> TaskResult:
        """Added to what the sites before found."""
        parts = added([*result.found, found])
        return replace(result, found=parts, n_found=result.n_found + 1)


def first_pass(recipe: Recipe) -> Pass:
    """The pass that a plan of a recipe is run with.

    Args:
        recipe: The plan's.
    """
    return Measuring() if recipe.is_open else Merging(recipe)


def found_at_all(plan: Plan, results: Sequence[TaskResult]) -> list[Any]:
    """What a pass found at each site of a plan, in the plan's order.

    Args:
        plan: The plan.
        results: All of its results.

    Raises:
        SitesFailed: If a site is missing from them.
    """
    found = {each.site: each for result in results for each in result.found}
    return in_order(plan, found, "measured")


def in_order(plan: Plan, found: Mapping[str, T], done: str) -> list[T]:
    """What was found at each site of a plan, in the plan's order.

    Args:
        plan: The plan.
        found: By site.
        done: What was done to find it, for the error.

    Raises:
        SitesFailed: If a site is missing.
    """
    sites = [site.site for task in plan.tasks for site in task.sites]
    missing = [site for site in sites if site not in found]
    if missing:
        raise SitesFailed(
            plan.digest[:12],
            f"{len(missing)} of {plan.n_sites} were not {done}, {missing[0]} first",
        )
    return [found[site] for site in sites]


def seeded(site: SitePlan) -> torch.Generator:
    """The site's own generator."""
    return torch.Generator().manual_seed(site.seed)


def _spectrum(site: SitePlan, energies: Tensor) -> Spectrum:
    return Spectrum(site.site, site.d_in + site.d_out, energies.numpy())
