"""What goes to a worker and what comes back: picklable values, no closures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lego_ray.errors import LegoRayError
from lego_ray.formats.differences import Difference
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.lazy import NDArray, np
from lego_ray.planning.task_plans import SitePlan, TaskPlan

if TYPE_CHECKING:
    from lego_ray.catalog.data_files import DataFile
    from lego_ray.planning.plan import Plan
    from lego_ray.tasks.passes import Pass

# An adapter's number, a site, and the squared norms of what its pair there leaves out of its update and
# of the update.
Loss = tuple[int, str, float, float]
# Called while a call runs: with a plan and None when the plan begins, then with each of its results.
Progress = Callable[["Plan", "TaskResult | None"], None]
SourceKey = tuple[str, str, str]  # a URI, a weights file and its version


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """What a task reads of one adapter.

    Attributes:
        adapter: The adapter's number in the plan.
        uri: Its URI, for errors.
        folder: The directory of its weights file.
        weights_key: Its weights file.
        factors: Its factor pairs at the task's sites.
        full_weights: Tensors to pass through unmerged.
        weight: Factor on its update.
        version: The store's mark of the weights file that was scanned: that one is read, or nothing.
        differences: Differences to add up; their weight is in the scaling of each.
        mark: `AdapterRecord.mark`.
    """

    adapter: int
    uri: str
    folder: str
    weights_key: str
    factors: tuple[SiteFactors, ...]
    full_weights: tuple[TensorSpan, ...] = ()
    weight: float = 1.0
    version: str = ""
    differences: tuple[Difference, ...] = ()
    mark: str = ""

    @property
    def key(self) -> SourceKey:
        """What tells its adapter from others and from itself at another time, in any plan."""
        return self.uri, self.weights_key, self.mark

    @classmethod
    def of(
        cls,
        adapter: AdapterRecord,
        number: int,
        factors: tuple[SiteFactors, ...],
        full_weights: tuple[TensorSpan, ...] = (),
        weight: float = 1.0,
        differences: tuple[Difference, ...] = (),
    ) -> SourceSlice:
        """A slice of an adapter as it was scanned.

        Args:
            adapter: The adapter.
            number: Its number in the plan.
            factors: As in the class.
            full_weights: As in the class.
            weight: As in the class.
            differences: As in the class.
        """
        return cls(
            number,
            adapter.uri,
            adapter.folder,
            adapter.weights_key,
            factors,
            full_weights,
            weight,
            adapter.version,
            differences,
            adapter.mark,
        )

    def spans(self) -> Iterator[TensorSpan]:
        """Every tensor to read, one that several sites share once."""
        found = dict.fromkeys(span for pair in self.factors for span in pair.spans())
        more = (each.span for each in self.differences)
        yield from dict.fromkeys((*found, *self.full_weights, *more))


def task_title(merge: str, sites: str, index: int, of: int) -> str:
    """A task's name where people look for it: on the dashboard, in `ray list tasks` and in logs.

    Args:
        merge: Name of the merge, or of those that share it; empty if there is none.
        sites: Which sites it has.
        index: Its number, from 0.
        of: How many there are; 0 if that is not known.
    """
    merge = f"{merge} / " if merge else ""
    return f"{merge}{sites} [{index + 1}/{of}]" if of else f"{merge}{sites}"


class Keeper(Protocol):
    """Keeps results for a run that goes on; picklable, since it travels with each task."""

    def keep(self, task: SolveTask, result: TaskResult) -> TaskResult:
        """Keeps a task's result, if it can from here; says so in the result.

        Args:
            task: The task.
            result: What it gave.
        """


@dataclass(frozen=True, slots=True)
class SolveTask:
    """One task: extract some sites, and do at each what the pass says.

    Attributes:
        index: The task's number in the plan.
        plan_digest: The run it belongs to.
        plan: Its sites and estimates.
        sources: What to read.
        memory_budget: Most bytes its worker may take.
        work: What is done at its sites.
        merge: Name of the merge.
        of: How many tasks the plan has.
        keeper: Keeps its result where a worker of another process has it; None for the driver to.
    """

    index: int
    plan_digest: str
    plan: TaskPlan
    sources: tuple[SourceSlice, ...]
    memory_budget: int
    work: Pass
    merge: str = ""
    of: int = 0
    keeper: Keeper | None = None

    @property
    def title(self) -> str:
        """What people see of it: `m3 / model.layers.0 [2/3]`."""
        return task_title(self.merge, self.plan.name, self.index, self.of)


@dataclass(frozen=True, slots=True)
class SiteResult:
    """A solved site.

    Attributes:
        plan: The site.
        a: A', shape (k', d_in), float32.
        b: B', shape (d_out, k'), float32.
        adapters: Source adapter of each MSU, shape (n,), int32; MSUs sorted by (adapter, rank). Of a
            method that mixes MSUs, of each share that is recorded: an MSU may have several or none.
        ranks: Source rank of each MSU, shape (n,), int32; -1 for an adapter's other shares together.
        clusters: Row of A' it went to, shape (n,), int32; -1 as for `ranks`; None, as are the two after
            it, if the method does not say.
        distances: Its distance to its centroid, shape (n,), float64; None of a method that mixes MSUs.
        weights: Its share in its row of A', shape (n,), float64.
        inertia: Sum of the squared distances; None, as is the next, if the method does not cluster.
        iterations: Lloyd steps of the restart kept.
        relative_error: Against the sum of the sources' updates.
        norm_ratio: Its norm over that of the sum.
        fit_sums: Of an updatable merge; see `sums` of `numerics.kmeans.running_sums.SiteFit`.
        fit_quanta: Its `quanta`.
        fit_alone: Its `alone`; None if there is none.
        fit_totals: Its `totals`.
        fit_norms: `norms` of `numerics.kmeans.running_sums.Members`, shape (n,), float64.
        fit_squares: Its `squares`, shape (n,), float64.
    """

    plan: SitePlan
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    adapters: NDArray[np.int32]
    ranks: NDArray[np.int32]
    clusters: NDArray[np.int32] | None
    distances: NDArray[np.float64] | None
    weights: NDArray[np.float64] | None
    inertia: float | None
    iterations: int | None
    relative_error: float
    norm_ratio: float
    fit_sums: NDArray[np.float64] | None = None
    fit_quanta: NDArray[np.float64] | None = None
    fit_alone: NDArray[np.float32] | None = None
    fit_totals: NDArray[np.float64] | None = None
    fit_norms: NDArray[np.float64] | None = None
    fit_squares: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task returns.

    Attributes:
        index: The task's number in the plan.
        sites: Merged sites; empty if an adapter was quarantined, because the plan then changes, and of
            a pass that does not merge.
        quarantined: What is wrong with the weights of which adapter.
        tensor_hashes: For each adapter, name and hex sha256 of each tensor read.
        full_weights: Raw bytes of tensors passed through, by name; and the sums of differences, by
            common key, as `tasks.added.Added` packs them.
        bytes_read: Bytes fetched, gaps of coalesced reads included.
        requests: Read requests made.
        seconds: Wall time in the worker.
        worker: The node it ran on, where the runner knows.
        retries: Times the task was started before and did not end, where the runner knows.
        found: What a pass that does not merge found; see `Pass.with_found`.
        n_found: At how many sites it found that.
        losses: How near pairs are that were computed with the base model.
        kept: Whether its worker kept it at the output.
        rows: Files with its rows of the catalog's `msus`, if its worker wrote them; its sites lack
            them then.
    """

    index: int
    sites: tuple[SiteResult, ...]
    quarantined: Mapping[int, LegoRayError]
    tensor_hashes: Mapping[int, tuple[tuple[str, str], ...]]
    full_weights: Mapping[str, bytes]
    bytes_read: int
    requests: int
    seconds: float
    worker: str = ""
    retries: int = 0
    found: tuple[Any, ...] = ()
    n_found: int = 0
    losses: tuple[Loss, ...] = ()
    kept: bool = False
    rows: tuple[DataFile, ...] = ()

    @property
    def n_sites(self) -> int:
        """Sites that were merged, or at which something else was found."""
        return len(self.sites) + self.n_found

    @property
    def inertia(self) -> float | None:
        """The sites' together; None if the method does not cluster, or there is none."""
        known = [site.inertia for site in self.sites if site.inertia is not None]
        return sum(known) if known else None
