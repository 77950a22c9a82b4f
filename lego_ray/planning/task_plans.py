"""How the work of a plan is cut: sites, the shards of those that no worker holds, and tasks."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.formats.site_factors import SiteKind

# A worker process before it has read anything: Python, torch and Ray's client.
WORKER_BYTES = 320 * 2**20
# Adapters whose reads are under way at once, as few as hide what a disk takes to answer.
READ_AHEAD = 4


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
        rank: k, the most merged ranks it may have; 0 while that is open.
        seed: Seed of its generator.
        route: How it is solved, one of the method's routes, or `spread` over shards.
        peak_bytes: Memory of a worker that solves it: process, pool and workspace; of the largest
            shard's if it is spread.
        seconds: Rough estimate of its arithmetic on one core.
        scale: The site's own factor on its merged update.
    """

    site: str
    kind: SiteKind
    d_in: int
    d_out: int
    a_tail: tuple[int, ...]
    b_dims: int
    n_msus: int
    n_adapters: int
    rank: int
    seed: int
    route: str
    peak_bytes: int
    seconds: float
    scale: float = 1.0

    @property
    def pool_bytes(self) -> int:
        """Size of the float32 pool."""
        return 4 * self.n_msus * (self.d_in + self.d_out)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A block of adapters whose part of one site's pool one actor holds.

    Attributes:
        n_adapters: How many of the adapters that have the site, in plan order.
        n_msus: Rows of the part.
        read_bytes: Tensor bytes to read.
        peak_bytes: Most memory the actor takes.
    """

    n_adapters: int
    n_msus: int
    read_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The sites one task extracts and solves; or one site that no worker holds, and its shards.

    Attributes:
        name: The layers in it, in words; the site, if it is spread.
        sites: Their plans.
        read_bytes: Tensor bytes to read.
        peak_bytes: Most memory one worker takes for it.
        shards: Empty if the sites fit one worker.
        owner_bytes: Memory of the actor that leads the shards; 0 without shards.
        ahead: Adapters whose reads are under way at once.
    """

    name: str
    sites: tuple[SitePlan, ...]
    read_bytes: int
    peak_bytes: int
    shards: tuple[ShardPlan, ...] = ()
    owner_bytes: int = 0
    ahead: int = READ_AHEAD

    @property
    def routes(self) -> str:
        """The routes its sites take, such as `gram` or `gram, msu`."""
        return ", ".join(sorted({site.route for site in self.sites}))
