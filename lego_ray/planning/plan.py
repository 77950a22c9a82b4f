"""The plan: frozen data that says what will be read, solved and written, and in which tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lego_ray.formats.record import AdapterRecord, Refused, SiteKind
from lego_ray.planning.recipe import Recipe

# Changes whenever the same recipe and adapters would give other bits.
PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class SitePlan:
    """One site to solve.

    Attributes:
        site: Module path.
        kind: Kind of layer.
        d_in: Length of a row of A, flattened.
        d_out: Length of a column of B.
        a_tail: Stored shape of A without its rank.
        b_dims: Number of dimensions B is stored with.
        n_msus: n, the rows of its pool.
        n_adapters: Adapters that have the site.
        seed: Seed of its generator.
        peak_bytes: Memory its solution takes, pool included.
        seconds: Rough estimate of its arithmetic on one core.
    """

    site: str
    kind: SiteKind
    d_in: int
    d_out: int
    a_tail: tuple[int, ...]
    b_dims: int
    n_msus: int
    n_adapters: int
    seed: int
    peak_bytes: int
    seconds: float

    @property
    def pool_bytes(self) -> int:
        """Size of the float32 pool."""
        return 4 * self.n_msus * (self.d_in + self.d_out)


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The sites one task extracts and solves.

    Attributes:
        name: The layers in it, in words.
        sites: Their plans.
        read_bytes: Tensor bytes to read.
        peak_bytes: Most memory the task takes.
    """

    name: str
    sites: tuple[SitePlan, ...]
    read_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A merge, ready to run.

    Attributes:
        recipe: What was asked.
        base_model: Base model of the merged adapter.
        dtype: Element type it is written in.
        adapters: Sources, in plan order; a task names them by their number here.
        refused: Adapters left out, and why.
        groups: Tasks.
        warnings: What a user should know before running it.
        digest: Hex sha256 over what determines the merged bytes: recipe, adapters (content id and
            the store's version mark), and this format's version. It names the run. How the work is
            cut into tasks is not in it, because it changes no bit.
    """

    recipe: Recipe
    base_model: str
    dtype: str
    adapters: tuple[AdapterRecord, ...]
    refused: tuple[Refused, ...]
    groups: tuple[GroupPlan, ...]
    warnings: tuple[str, ...]
    digest: str

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return sum(len(group.sites) for group in self.groups)

    @property
    def n_msus(self) -> int:
        """MSUs over all sites."""
        return sum(site.n_msus for group in self.groups for site in group.sites)

    @property
    def read_bytes(self) -> int:
        """Tensor bytes to read."""
        return sum(group.read_bytes for group in self.groups)

    @property
    def peak_bytes(self) -> int:
        """Most memory one task takes."""
        return max((group.peak_bytes for group in self.groups), default=0)

    def as_json(self) -> dict[str, Any]:
        """The plan for people and scripts, without the sources' byte ranges."""
        return {
            "plan": self.digest,
            "recipe": self.recipe.as_json(),
            "base_model": self.base_model,
            "dtype": self.dtype,
            "adapters": [
                {
                    "adapter": a.uri,
                    "adapter_id": a.adapter_id,
                    "format": a.format,
                    "rank_min": min(a.ranks),
                    "rank_max": max(a.ranks),
                    "sites": len(a.sites),
                    "bytes": a.n_bytes,
                    "notes": list(a.notes),
                }
                for a in self.adapters
            ],
            "refused": [{"adapter": r.uri, "reason": r.reason} for r in self.refused],
            "sites": self.n_sites,
            "msus": self.n_msus,
            "tasks": [
                {
                    "name": g.name,
                    "sites": len(g.sites),
                    "bytes": g.read_bytes,
                    "memory": g.peak_bytes,
                }
                for g in self.groups
            ],
            "bytes": self.read_bytes,
            "memory_per_worker": self.peak_bytes,
            "warnings": list(self.warnings),
        }
