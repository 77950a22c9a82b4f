"""Differences of weights, biases and norms in a merge: their names, and what a plan says of them. Pure.

A difference of a module that has factors goes by the name of the site. Other modules, such as norms, get
another prefix, and where the adapter's modules get names of another side, the name that the tables of
models have for them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import InvalidOption, LayoutMismatch, SiteShapeMismatch
from lego_ray.formats.architectures import ARCHITECTURES, Architecture, Reading, Side, by_base
from lego_ray.formats.differences import Difference, differences_of
from lego_ray.formats.fused import part_named
from lego_ray.formats.module_names import ModuleName, flattened, parse_name
from lego_ray.formats.record import AdapterRecord, sharing_sites
from lego_ray.formats.site_factors import SiteFactors
from lego_ray.planning.task_plans import READ_AHEAD, WORKER_BYTES, TaskPlan

_HINT = (
    "--full-weights drop leaves the differences out. Else merge adapters of one naming at a time, with "
    "--exclude for the others, and without --layout."
)
_DOUBLE = 8  # bytes of a float64


def with_named_differences(
    before: Sequence[AdapterRecord], after: Sequence[AdapterRecord], base_model: str = ""
) -> Sequence[AdapterRecord]:
    """The adapters with their differences under the names of the merge.

    Args:
        before: The adapters as they were read.
        after: The same, in the same order, each module under its name in the merge.
        base_model: Name of the base model, which decides if the modules could be those of several.

    Raises:
        LayoutMismatch: If the name of a module in the merge is not known.
    """
    if not any(adapter.differences for adapter in before):
        return after
    models = by_base(ARCHITECTURES, base_model)
    names = _Names.of(after, models)
    return [_named(one, two, names, models) for one, two in zip(before, after, strict=True)]


@dataclass(frozen=True, slots=True)
class _Names:
    """How a merge spells the names of modules.

    Attributes:
        prefixes: What the names of each part of the pipeline begin with, where that is one prefix.
        dotted: Paths with dots, by module.
        models: Tables that may have others.
        seen: Modules that have differences.
    """

    prefixes: Mapping[str, str]
    dotted: Mapping[tuple[str, str], str]
    models: Sequence[Architecture]
    seen: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, adapters: Sequence[AdapterRecord], models: Sequence[Architecture]) -> _Names:
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
        modules = {parse_name(d.module).module for a in adapters for d in a.differences}
        return cls(one, dotted, models, frozenset(modules))

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
        path = self.dotted.get(name.module) or self._by_tables(name) if name.is_flat else name.path
        if path is None:
            problem = (
                f"{module} has a difference and no factors, and what it is called with dots for "
                "underscores is not known"
            )
            raise LayoutMismatch(uri, problem, _HINT)
        return f"{prefix}{path}"

    def _by_tables(self, name: ModuleName) -> str | None:
        """The path of a module with dots, if the tables that have it agree."""
        readings = (model.read_any(name.path) for model in self.models)
        found = {each.path(each.side, each.part) for each in readings if each is not None}
        return found.pop() if len(found) == 1 else None


def _named(
    before: AdapterRecord, after: AdapterRecord, names: _Names, models: Sequence[Architecture]
) -> AdapterRecord:
    there: dict[object, list[SiteFactors]] = defaultdict(list)
    for factors in after.sites:
        for pair in [block.factors for block in factors.blocks] or [factors]:
            there[pair.a, pair.b, pair.packed].append(factors)
    moved = {f.site: there[f.a, f.b, f.packed] for f in before.sites}
    changed = [
        (site, new.site)
        for site, mine in moved.items()
        for new in mine
        if _name_of(new.site).module != parse_name(site).module
    ]
    translations = [
        found for model in models if (found := _Translation.of(model, changed)) is not None
    ]
    out: list[Difference] = []
    for each in before.differences:
        if each.module in moved:
            out += _at_sites(each, moved[each.module], before.uri)
        elif changed:
            renamed = [list(made.named(each, names.seen)) for made in translations]
            named = [[found.key for found in mine] for mine in renamed]
            if renamed and renamed[0] and all(mine == named[0] for mine in named):
                out += renamed[0]
                continue
            problem = (
                f"{each.span.name} is the difference of a module without factors, and what this "
                "module is called under the names of the merge is not known"
            )
            raise LayoutMismatch(before.uri, problem, _HINT)
        else:
            out.append(replace(each, module=names.of_module(each.module, before.uri)))
    return replace(after, differences=tuple(sorted(out, key=lambda each: each.key)))


def _name_of(site: str) -> ModuleName:
    """The name of a site, of a part of a module that of the module."""
    marked = part_named(site)
    return parse_name(marked.whole if marked else site)


@dataclass(frozen=True, slots=True)
class _Translation:
    """How the modules of a denoiser got names of another side.

    Attributes:
        model: The table that has both names of each.
        side: The side of the new names.
        prefixes: What the new names begin with, by component.
    """

    model: Architecture
    side: Side
    prefixes: Mapping[str, str]

    @classmethod
    def of(cls, model: Architecture, changed: Sequence[tuple[str, str]]) -> _Translation | None:
        """How names changed, if a table has all of them; else None.

        Args:
            model: The table.
            changed: Names of sites before and after.
        """
        sides: set[Side] = set()
        prefixes: dict[str, str] = {}
        for old, new in changed:
            one, two = parse_name(old), _name_of(new)
            before, after = model.read(one.path), model.read(two.path)
            if before is None or after is None or before.row.diffusers != after.row.diffusers:
                return None
            sides.add(after.side)
            if prefixes.setdefault(two.component, two.prefix) != two.prefix:
                return None
        return cls(model, next(iter(sides)), prefixes) if len(sides) == 1 else None

    def named(self, each: Difference, seen: Collection[tuple[str, str]]) -> Iterator[Difference]:
        """A difference of a module without factors under its new name, or its parts; none if unknown.

        Args:
            each: The difference.
            seen: Modules that have differences in the files of the merge, which tell the name where
                there are several.
        """
        name = parse_name(each.module)
        reading = self._reading(name, seen)
        prefix = self.prefixes.get(name.component)
        if reading is None or prefix is None:
            return
        row, is_other = reading.row, reading.side != self.side and reading.is_telling
        is_cut = row.is_fused and is_other and self.side == "diffusers"
        if row.is_fused and is_other and not is_cut:
            return
        d_out = each.span.shape[0]
        d_in = math.prod(each.span.shape[1:]) if len(each.span.shape) > 1 else 0
        for part in range(len(row.diffusers)) if is_cut else (reading.part,):
            path = reading.path(self.side, part)
            rows = each.rows
            if is_cut:
                rows = row.rows_of(part, d_in, d_out) if d_in or row.cut == "equal" else None
                if rows is None:
                    return
            module = f"{prefix}{flattened(path) if prefix.endswith('_') else path}"
            swapped = each.is_swapped != (row.is_swapped and is_other)
            yield replace(each, module=module, rows=rows, is_swapped=swapped)

    def _reading(self, name: ModuleName, seen: Collection[tuple[str, str]]) -> Reading | None:
        found = self.model.read_any(name.path)
        if found is None or self.side == "diffusers" or found.side == "original":
            return found
        several = list(self.model.others(found))
        if len(several) > 1:
            several = [
                each
                for each in several
                if (name.component, flattened(each.path(self.side))) in seen
            ]
        return several[0] if len(several) == 1 else None


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
    sites = {factors.site for alike in sharing_sites(adapters) for factors in alike[0].sites}
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
