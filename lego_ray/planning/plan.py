"""The plan: frozen data that says what will be read, solved and written, and in which tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lego_ray.formats.base_model import REVISION, shared_revision
from lego_ray.formats.fused import FusedSite, planned_wholes
from lego_ray.formats.output_layout import OutputLayout
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.record import AdapterRecord, Refused
from lego_ray.planning.counts import Counts
from lego_ray.planning.estimate import Estimate, estimated
from lego_ray.planning.licenses import license_conflicts, licenses_of
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import TaskPlan
from lego_ray.planning.trainer_runs import PassedOver
from lego_ray.records import arrow_table, frame_of, messages, rows_table, table

if TYPE_CHECKING:
    import pyarrow as pa

# Changes whenever the same recipe and adapters would give other bits.
PLAN_VERSION = 2
# Changes whenever a method gives other bytes for the same adapters and options; 2: the search of `lego`
# among rounded rows, with its exchange of single rows. A method that is not named is at its first.
ARITHMETIC = {"lego": 2}


def set_aside(
    passed_over: Iterable[PassedOver], adapters: Iterable[AdapterRecord]
) -> dict[str, list[dict[str, Any]]]:
    """What is not merged of what lies with some adapters, as records list it.

    Args:
        passed_over: Checkpoints of their training runs.
        adapters: The adapters, for the notes on them.
    """
    return {
        "passed_over": [each.as_json() for each in passed_over],
        "notes": [{"adapter": a.uri, "note": note} for a in adapters for note in a.notes],
    }


@dataclass(frozen=True, slots=True)
class RankError:
    """What no adapter of a rank can do better than.

    Attributes:
        rank: k, at every site.
        error: Relative error, over all sites, of the nearest adapter of rank k to the sum of the
            updates.
        worst_site: The site where its own relative error is largest.
        worst_error: That error.
    """

    rank: int
    error: float
    worst_site: str
    worst_error: float


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """A merge, ready to run; of ranks that are open, its measuring.

    Attributes:
        recipe: What was asked.
        base_model: Base model of the merged adapter.
        dtype: Element type it is written in.
        format: Layout it is written in: `peft`, `kohya` or `diffusers`.
        adapters: Sources, in plan order; a task names them by their number here.
        weights: Factor on the update of each of them.
        refused: Adapters left out, and why.
        tasks: How the work is cut.
        memory_budget: Most bytes one worker may take.
        warnings: What a user should know before running it.
        digest: Hex sha256 over what determines the merged bytes: recipe, adapters (content id and
            weight), and this format's version. It names the run. How the work is cut into tasks is not
            in it, because it changes no bit; nor is where and when the adapters were written.
        limits: Those of the warnings that are of the result itself: readers that refuse it, and what was
            left out so that the others load it.
        errors: Error against k, if it was asked for; measured.
        nearest_error: Relative error, over all sites, of the nearest adapter of the plan's ranks to the
            sum of the updates; None if nothing was measured.
        former: The digest that earlier releases gave it, which had the store's marks in it; what they
            made is recognized by it. Empty for the next version of a merge, whose digest never had.
        work: Hex sha256 over what determines the solved sites: the digest without how they are written,
            such as their element type. Finished tasks are kept under it. Empty for the next version of a
            merge.
        passed_over: Checkpoints of the adapters' training runs that were not taken.
        earlier: The digest and that of the work by an earlier arithmetic of the method, if it had one: a
            merge published by it counts as this one, and what is left of an unfinished run is merged
            again.
        counts: How many adapters were found, and what became of them.
    """

    recipe: Recipe
    base_model: str
    dtype: str
    format: str
    adapters: tuple[AdapterRecord, ...]
    weights: tuple[float, ...]
    refused: tuple[Refused, ...]
    tasks: tuple[TaskPlan, ...]
    memory_budget: int
    warnings: tuple[str, ...]
    digest: str
    limits: tuple[str, ...] = ()
    errors: tuple[RankError, ...] = ()
    nearest_error: float | None = None
    former: str = ""
    work: str = ""
    passed_over: tuple[PassedOver, ...] = ()
    earlier: tuple[str, ...] = ()
    counts: Counts | None = None

    @property
    def rank(self) -> int:
        """k, the largest of the sites'; 0 while it is open."""
        return self.recipe.rank or 0

    @property
    def layout(self) -> OutputLayout:
        """The layout it is written in."""
        return output_layout(self.format)

    @property
    def weights_name(self) -> str:
        """Name of the merged adapter's weights file."""
        return self.layout.weights_name(self.recipe.name)

    @property
    def marker(self) -> str:
        """Name of the file that makes the output an adapter, and so is written last."""
        return self.layout.marker(self.recipe.name)

    @property
    def base_revision(self) -> str:
        """The revision of the base model that it names; empty for none."""
        return shared_revision(self.adapters, self.base_model).get(REVISION, "")

    @property
    def groups(self) -> tuple[TaskPlan, ...]:
        """The tasks, by the name that earlier releases had for them."""
        return self.tasks

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return sum(len(task.sites) for task in self.tasks)

    @property
    def put_together(self) -> tuple[FusedSite, ...]:
        """Fused modules that are stored whole and merged in parts, at the most rank each may have."""
        sites = [site for task in self.tasks for site in task.sites]
        return tuple(planned_wholes(sites, {site.site: site.rank for site in sites})[1])

    @property
    def n_msus(self) -> int:
        """MSUs over all sites."""
        return sum(site.n_msus for task in self.tasks for site in task.sites)

    @property
    def read_bytes(self) -> int:
        """Tensor bytes to read."""
        return sum(task.read_bytes for task in self.tasks)

    @property
    def peak_bytes(self) -> int:
        """Most memory one task takes."""
        return max((task.peak_bytes for task in self.tasks), default=0)

    @property
    def estimate(self) -> Estimate:
        """What its arithmetic takes, and where it is done if nothing is asked for."""
        return estimated(self.tasks, self.memory_budget)

    @property
    def licenses(self) -> tuple[str, ...]:
        """Licenses of the sources; see `licenses.licenses_of`."""
        return licenses_of(self.adapters)

    @property
    def license_conflicts(self) -> tuple[str, ...]:
        """What to check about them, which is among the warnings too."""
        return license_conflicts(self.adapters)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.recipe.name}: {self.recipe.method}, "
            f"{len(self.adapters)} adapters, {self.n_sites} sites, rank {self.recipe.rank_asked}, "
            f"{self.digest[:12]}>"
        )

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        shown = {
            "method": self.recipe.method,
            "adapters": len(self.adapters),
            "refused": len(self.refused),
            "sites": self.n_sites,
            "rank": self.recipe.rank_asked,
            "base model": self.base_model or "(none named)",
            "bytes to read": self.read_bytes,
            "bytes a worker": self.peak_bytes,
            "warnings": "; ".join(self.warnings) or "none",
        }
        told = self.as_json()
        rows = rows_table(told["adapters"])
        return table(f"{self.recipe.name}: a plan", shown) + rows + messages(told)

    def to_arrow(self) -> pa.Table:
        """Its adapters as an Arrow table, a row for each."""
        return arrow_table(self.as_json()["adapters"])

    def to_pandas(self) -> Any:
        """Its adapters as a `pandas.DataFrame`.

        Raises:
            MissingPackage: If pandas is not installed.
        """
        return frame_of(self.to_arrow())

    def as_json(self) -> dict[str, Any]:
        """The plan for people and scripts, without the sources' byte ranges."""
        estimate = self.estimate
        return {
            "plan": self.digest,
            "recipe": self.recipe.as_json(),
            "base_model": self.base_model,
            "dtype": self.dtype,
            "format": self.format,
            "adapters": [
                {
                    "adapter": a.uri,
                    "adapter_id": a.adapter_id,
                    "format": a.format,
                    "rank_min": min(a.ranks),
                    "rank_max": max(a.ranks),
                    "sites": len(a.sites),
                    "bytes": a.n_bytes,
                    "weight": weight,
                    "notes": list(a.notes),
                }
                for a, weight in zip(self.adapters, self.weights, strict=True)
            ],
            "refused": [each.as_json() for each in self.refused],
            **set_aside(self.passed_over, self.adapters),
            "counts": None if self.counts is None else self.counts.as_json(),
            "rank": self.recipe.rank,
            "ranks": dict(self.recipe.ranks) or None,
            "errors": [asdict(each) for each in self.errors] or None,
            "nearest_error": self.nearest_error,
            "sites": self.n_sites,
            "put_together": [
                {"site": f.site, "rank": f.rank, "parts": f.parts, "zero_rows": f.empty_rows}
                for f in self.put_together
            ],
            "msus": self.n_msus,
            "tasks": [
                {
                    "name": g.name,
                    "sites": len(g.sites),
                    "bytes": g.read_bytes,
                    "memory": g.peak_bytes,
                    "route": g.routes,
                    "shards": len(g.shards),
                }
                for g in self.tasks
            ],
            "bytes": self.read_bytes,
            "memory_per_worker": self.peak_bytes,
            "seconds": round(estimate.seconds, 3),
            "runner": estimate.runner,
            "licenses": list(self.licenses),
            "license_conflicts": list(self.license_conflicts),
            "warnings": list(self.warnings),
        }
