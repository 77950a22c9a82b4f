"""Tasks of several merges that read the same bytes, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lego_ray.planning.plan import GroupPlan
from lego_ray.tasks.values import GroupResult, GroupTask, SourceKey, SourceSlice


@dataclass(frozen=True, slots=True)
class SharedTask:
    """Tasks of several merges that need the same bytes, which are read once for all of them.

    Attributes:
        index: Its number among the shared tasks.
        group: Its name and estimates; the sites are its parts'.
        sources: Every tensor its parts need, once; numbered for this task alone, weights left open.
        parts: A task of each merge.
        memory_budget: Most bytes its worker may take.
    """

    index: int
    group: GroupPlan
    sources: tuple[SourceSlice, ...]
    parts: tuple[GroupTask, ...]
    memory_budget: int


@dataclass(frozen=True, slots=True)
class SharedResult:
    """What a shared task returns.

    Attributes:
        index: The task's number.
        parts: The results of its parts, in order; none of them counts what was read.
        bytes_read: As in `GroupResult`, as are the others.
        requests: Likewise.
        seconds: Likewise.
        retries: Likewise.
    """

    index: int
    parts: tuple[GroupResult, ...]
    bytes_read: int
    requests: int
    seconds: float
    retries: int = 0


def share(index: int, name: str, peak_bytes: int, parts: Sequence[GroupTask]) -> SharedTask:
    """One task of several merges' tasks.

    Args:
        index: Its number.
        name: Its name.
        peak_bytes: Most memory it takes.
        parts: The merges' tasks.
    """
    sources: dict[SourceKey, SourceSlice] = {}
    for part in parts:
        for source in part.sources:
            known = sources.get(source.key, replace(source, adapter=len(sources), weight=1.0))
            sources[source.key] = replace(
                known,
                factors=tuple(dict.fromkeys((*known.factors, *source.factors))),
                full_weights=tuple(dict.fromkeys((*known.full_weights, *source.full_weights))),
            )
    spans = {(key, span) for key, source in sources.items() for span in source.spans()}
    read_bytes = sum(span.end - span.start for _, span in spans)
    return SharedTask(
        index=index,
        group=GroupPlan(name=name, sites=(), read_bytes=read_bytes, peak_bytes=peak_bytes),
        sources=tuple(sources.values()),
        parts=tuple(parts),
        memory_budget=parts[0].memory_budget,
    )
