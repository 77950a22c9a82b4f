"""Differences of weights, biases and norms in a merge: their names, and what a plan says of them. Pure.

A difference of a module that has factors goes by the name of the site. Other modules, such as norms, are
in no table of models: their names can get another prefix, and no other path.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import InvalidOption, LayoutMismatch, SiteShapeMismatch
from lego_ray.formats.differences import Difference, differences_of
from lego_ray.formats.module_names import flattened, parse_name
from lego_ray.formats.record import AdapterRecord, SiteFactors
from lego_ray.planning.cutting import READ_AHEAD
from lego_ray.planning.task_plans import WORKER_BYTES, TaskPlan

_HINT = (
    "--full-weights drop leaves the differences out. Else merge adapters of one naming at a time, with "
    "--exclude for the others, and without --layout."
)
_DOUBLE = 8  # bytes of a float64


def with_named_differences(
    before: Sequence[AdapterRecord], after: Sequence[AdapterRecord]
) -> Sequence[AdapterRecord]:
    """The adapters with their differences under the names of the merge.

    Args:
        before: The adapters as they were read.
        after: The same, in the same order, each module under its name in the merge.

    Raises:
        LayoutMismatch: If the name of a module in the merge is not known.
    """
    if not any(adapter.differences for adapter in before):
        return after
    names = _Names.of(after)
    return [_named(one, two, names) for one, two in zip(before, after, strict=True)]


@dataclass(frozen=True, slots=True)
class _Names:
    """How a merge spells the names of modules.

    Attributes:
        prefixes: What the names of each part of the pipeline begin with, where that is one prefix.
        dotted: Paths with dots, by module.
    """

    prefixes: Mapping[str, str]
    dotted: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, adapters: Iterable[AdapterRecord]) -> _Names:
        """The names of adapters that are renamed; their differences are not yet."""
        seen: dict[str, set[str]] = defaultdict(set)
        dotted: dict[tuple[str, str], str] = {}
        for adapter in adapters:
            for factors in adapter.sites:
                name = parse_name(factors.site)
                seen[name.component].add(name.prefix)
            for each in adapter.differences:
                name = parse_name(each.module)
                if not name.is_flat:
                    dotted[name.module] = min(name.path, dotted.get(name.module, name.path))
        one = {component: next(iter(p)) for component, p in seen.items() if len(p) == 1}
        return cls(one, dotted)

    def of_module(self, module: str, uri: str) -> str:
        """The name of a module that has no factors.

        Raises:
            LayoutMismatch: If it is written with dots, and they are not known.
        """
        name = parse_name(module)
        prefix = self.prefixes.get(name.component, name.prefix)
        if prefix == name.prefix:
            return module
        if prefix.endswith("_"):
            return f"{prefix}{flattened(name.path)}"
        path = self.dotted.get(name.module) if name.is_flat else name.path
        if path is None:
            problem = (
                f"{module} has a difference and no factors, and what it is called with dots for "
                "underscores is not known"
            )
            raise LayoutMismatch(uri, problem, _HINT)
        return f"{prefix}{path}"


def _named(before: AdapterRecord, after: AdapterRecord, names: _Names) -> AdapterRecord:
    there: dict[object, list[SiteFactors]] = defaultdict(list)
    for factors in after.sites:
        for pair in [block.factors for block in factors.blocks] or [factors]:
            there[pair.a, pair.b, pair.packed].append(factors)
    moved = {f.site: there[f.a, f.b, f.packed] for f in before.sites}
    is_translated = any(
        parse_name(new.site).module != parse_name(site).module
        for site, mine in moved.items()
        for new in mine
    )
    out: list[Difference] = []
    for each in before.differences:
        if each.module in moved:
            out += _at_sites(each, moved[each.module], before.uri)
        elif is_translated:
            problem = (
                f"{each.span.name} is the difference of a module without factors, and what this "
                "module is called under the names of the merge is not known"
            )
            raise LayoutMismatch(before.uri, problem, _HINT)
        else:
            out.append(replace(each, module=names.of_module(each.module, before.uri)))
    return replace(after, differences=tuple(sorted(out, key=lambda each: each.key)))


def _at_sites(each: Difference, sites: Sequence[SiteFactors], uri: str) -> Iterator[Difference]:
    """A difference at the sites that its module is in the merge: one, or parts of it."""
    for factors in sites:
        if factors.blocks:
            problem = f"{each.span.name} is of a part of {factors.site}, which the merge has whole"
            raise LayoutMismatch(uri, problem, _HINT)
        is_swapped = factors.is_swapped
        yield replace(each, module=factors.site, rows=factors.rows, is_swapped=is_swapped)


def modules_of(adapters: Iterable[AdapterRecord]) -> list[str]:
    """Modules that have differences and no factors, sorted.

    Args:
        adapters: The adapters of a merge, each module under its name there.
    """
    adapters = list(adapters)
    sites = {factors.site for adapter in adapters for factors in adapter.sites}
    return sorted({d.module for a in adapters for d in a.differences} - sites)


def check_differences(adapters: Sequence[AdapterRecord]) -> None:
    """Passes adapters whose differences of one weight have one shape.

    Args:
        adapters: The adapters of a merge, each module under its name there.

    Raises:
        SiteShapeMismatch: Otherwise, naming the weight, the shapes and an adapter of each.
    """
    seen: dict[str, tuple[Difference, str]] = {}
    for adapter in adapters:
        for each in adapter.differences:
            first, uri = seen.setdefault(each.key, (each, adapter.uri))
            if first.shape != each.shape:
                problem = (
                    f"{each.span.name} has shape {list(each.shape)} in {adapter.uri} and "
                    f"{first.span.name} has {list(first.shape)} in {uri}"
                )
                hint = "They were trained on different models; leave some out with --exclude."
                raise SiteShapeMismatch(each.module, problem, hint)


def room_for(adapters: Sequence[AdapterRecord], memory_budget: int) -> tuple[int, int]:
    """What the task that adds up the differences of a merge reads and needs for them.

    Args:
        adapters: The adapters of the merge, each module under its name there.
        memory_budget: Most bytes one worker may take.

    Returns:
        Bytes to read, and bytes of memory.

    Raises:
        InvalidOption: If a worker has no room for them.
    """
    reads = [sum(d.span.end - d.span.start for d in a.differences) for a in adapters]
    if not any(reads):
        return 0, 0
    values = sum(each[0].n_values for each in differences_of(adapters).values())
    # The sums, one adapter's terms, and the packed result; and what is read ahead.
    room = 3 * _DOUBLE * values + (READ_AHEAD + 1) * max(reads)
    if WORKER_BYTES + room > memory_budget:
        problem = (
            f"the differences of weights, biases and norms need {room / 2**30:.2f} GiB of memory "
            f"besides the {WORKER_BYTES / 2**30:.2f} GiB of a worker, and the budget is "
            f"{memory_budget / 2**30:.2f} GiB"
        )
        hint = "Give a larger --memory-budget, or leave the differences out: --full-weights drop."
        raise InvalidOption("--memory-budget", problem, hint)
    return sum(reads), room


def with_room(task: TaskPlan, reads: int, room: int) -> TaskPlan:
    """The task that adds up the differences, its first shard if it has any.

    Args:
        task: The first of a plan.
        reads: Bytes of the differences.
        room: Memory that it needs for them.
    """
    shards = task.shards
    if shards:
        first, *others = shards
        first = replace(
            first, read_bytes=first.read_bytes + reads, peak_bytes=first.peak_bytes + room
        )
        shards = (first, *others)
    peak = max((shard.peak_bytes for shard in shards), default=task.peak_bytes + room)
    return replace(
        task,
        read_bytes=task.read_bytes + reads,
        peak_bytes=max(peak, task.peak_bytes),
        shards=shards,
    )


def difference_warnings(adapters: Sequence[AdapterRecord], choice: str) -> Iterator[str]:
    """What a plan says of the differences of its adapters.

    Args:
        adapters: The adapters.
        choice: As `Recipe.full_weights`.
    """
    found = differences_of(adapters)
    if not found:
        return
    carriers = sum(bool(adapter.differences) for adapter in adapters)
    example = next(iter(found.values()))[0].span.name
    many = f"{len(found)} differences" if len(found) > 1 else "one difference"
    how = {"sum": "the sum", "average": "the mean"}.get(choice)
    if how is None:
        yield f"{many} of weights, biases or norms, such as {example}, are those of one adapter"
        return
    verb = "are each" if len(found) > 1 else "is"
    yield (
        f"{many} of weights, biases or norms, such as {example}, {verb} {how} over the adapters that "
        f"have it; {carriers} of the {len(adapters)} adapters have any"
    )
