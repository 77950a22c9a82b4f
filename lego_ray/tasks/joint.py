"""Tasks of several merges that read the same bytes, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lego_ray.planning.task_plans import TaskPlan
from lego_ray.tasks.values import SolveTask, SourceKey, SourceSlice, TaskResult, task_title

# Of the merges that share a task, in its name.
NAMED = 3


@dataclass(frozen=True, slots=True)
class JointTask:
    """Tasks of several merges that need the same bytes, which are read once for all of them.

    Attributes:
        index: Its number among the shared tasks.
        plan: Its name and estimates; the sites are its parts'.
        sources: Every tensor its parts need, once; numbered for this task alone, weights left open.
        parts: A task of each merge.
        memory_budget: Most bytes its worker may take.
        of: How many shared tasks there are.
    """

    index: int
    plan: TaskPlan
    sources: tuple[SourceSlice, ...]
    parts: tuple[SolveTask, ...]
    memory_budget: int
    of: int = 0

    @property
    def title(self) -> str:
        """What people see of it; see `task_title`."""
        merges = list(dict.fromkeys(part.merge for part in self.parts))
        more = f" and {len(merges) - NAMED} more" if len(merges) > NAMED else ""
        return task_title(f"{', '.join(merges[:NAMED])}{more}", self.plan.name, self.index, self.of)


@dataclass(frozen=True, slots=True)
class JointResult:
    """What a shared task returns.

    Attributes:
        index: The task's number.
        parts: The results of its parts, in order; none of them counts what was read.
        bytes_read: As in `TaskResult`.
        requests: As in `TaskResult`.
        seconds: As in `TaskResult`.
        worker: As in `TaskResult`.
        retries: As in `TaskResult`.
    """

    index: int
    parts: tuple[TaskResult, ...]
    bytes_read: int
    requests: int
    seconds: float
    worker: str = ""
    retries: int = 0


def joint_task(
    index: int, name: str, peak_bytes: int, parts: Sequence[SolveTask], *, of: int = 0
) -> JointTask:
    """One task of several merges' tasks.

    Args:
        index: Its number.
        name: Its name.
        peak_bytes: Most memory it takes.
        parts: The merges' tasks.
        of: How many shared tasks there are.
    """
    sources: dict[SourceKey, SourceSlice] = {}
    for part in parts:
        for source in part.sources:
            known = sources.get(source.key, replace(source, adapter=len(sources), weight=1.0))
            sources[source.key] = replace(
                known,
                factors=tuple(dict.fromkeys((*known.factors, *source.factors))),
                full_weights=tuple(dict.fromkeys((*known.full_weights, *source.full_weights))),
                differences=tuple(dict.fromkeys((*known.differences, *source.differences))),
            )
    spans = {(key, span) for key, source in sources.items() for span in source.spans()}
    read_bytes = sum(span.end - span.start for _, span in spans)
    return JointTask(
        index=index,
        plan=TaskPlan(name=name, sites=(), read_bytes=read_bytes, peak_bytes=peak_bytes),
        sources=tuple(sources.values()),
        parts=tuple(parts),
        memory_budget=parts[0].memory_budget,
        of=of,
    )
