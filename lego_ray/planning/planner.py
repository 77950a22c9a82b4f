"""`(recipe, inventory) -> Plan`, a pure function: no files, no cluster, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lego_ray.errors import InvalidOption, SiteShapeMismatch
from lego_ray.formats.header_alpha import HEADER_ALPHA
from lego_ray.formats.kinds import kinds_in
from lego_ray.formats.peft_ranks import shares_rank
from lego_ray.formats.record import AdapterRecord, sharing_sites
from lego_ray.methods.base import PoolCosts
from lego_ray.planning.base_models import agreed_base_model, revision_warnings
from lego_ray.planning.cutting import Tally, cut_into_tasks
from lego_ray.planning.differences import (
    check_differences,
    difference_warnings,
    modules_of,
    room_for,
    with_room,
)
from lego_ray.planning.inventory import (
    Inventory,
    agreed_format,
    as_convolutions,
    check_shapes,
    keep_full_weights_of,
    named_layout,
    require_adapters,
)
from lego_ray.planning.licenses import license_conflicts
from lego_ray.planning.loading import reader_warnings
from lego_ray.planning.naming import agreed_names, has_other_names, warnings_of_names
from lego_ray.planning.noise_halves import noise_warnings
from lego_ray.planning.only_base import only_of_base
from lego_ray.planning.parameters import agreed_parameters
from lego_ray.planning.plan import ARITHMETIC, PLAN_VERSION, Plan
from lego_ray.planning.recipe import Recipe, digest_of
from lego_ray.planning.scales import site_scales_of
from lego_ray.planning.task_plans import TaskPlan
from lego_ray.planning.trees import check_one_tree, names_in, warnings_of_trees
from lego_ray.planning.weights import weights_of, without_zeros


def make_plan(
    recipe: Recipe,
    inventory: Inventory,
    *,
    sources: Sequence[str] = (),
    memory_budget: int = 4 << 30,
    work: PoolCosts | None = None,
) -> Plan:
    """Plans a merge; while the recipe's ranks are open, the measuring they are chosen by.

    Args:
        recipe: What to make.
        inventory: What a scan found.
        sources: The user's words for where that was, for error messages.
        memory_budget: Most bytes one worker may take.
        work: What its tasks are to do instead of what the recipe says.

    Raises:
        NoAdaptersFound: If no adapter is left to merge.
        LayoutMismatch: If the adapters are in layouts that do not go into one, or name the modules of
            one model in ways that differ by more than spelling.
        BaseModelMismatch: If the adapters name different base models.
        SiteShapeMismatch: If adapters disagree on a site's shape.
        UnreadableOutput: If the main reader of the layout could not load the result as it is meant.
        InvalidOption: If a worker with this memory budget cannot hold even a part of a site's pool,
            the method cannot give this rank, or a weight or scale is of no adapter or site.
    """
    require_adapters(inventory, sources)
    given = dict(
        zip((a.uri for a in inventory.adapters), weights_of(inventory, recipe.weights), strict=True)
    )
    inventory = only_of_base(inventory, recipe.only_base)
    weights = tuple(given[a.uri] for a in inventory.adapters)
    inventory, weights, unused = without_zeros(inventory, weights)
    inventory = keep_full_weights_of(inventory, recipe.full_weights)
    adapters = inventory.adapters
    written_as = agreed_format(adapters)
    base_model = agreed_base_model(adapters, recipe.base_model)
    adapters = agreed_names(adapters, written_as, recipe.layout, base_model)
    adapters = agreed_parameters(as_convolutions(adapters))
    asked = recipe.layout if recipe.layout != "sources" else ""
    written_as = asked or named_layout(adapters, written_as)
    names = names_in(adapters)
    check_one_tree(names, written_as)
    check_shapes(adapters)
    check_differences(adapters)
    _check_layout(adapters)
    tallies = tally_sites(adapters)
    _check_ranks(recipe, tallies, adapters)
    if recipe.is_open:  # the merge to come must fit too, at the least rank if at any
        list(cut_into_tasks(tallies, replace(recipe, rank=1), memory_budget))
    reads, room = room_for(adapters, memory_budget)
    scales = site_scales_of(
        [t.example.site for t in tallies] + modules_of(adapters),
        recipe.site_scales,
        complete=not any(r.status == "quarantined" for r in inventory.refused),
    )
    cut = cut_into_tasks(tallies, recipe, memory_budget - room, work)
    tasks = [_scaled(task, scales) for task in cut]
    if reads:
        tasks[0] = with_room(tasks[0], reads, room)
    # What is measured does not depend on how sites are merged.
    merges = work is None and not recipe.is_open
    solved_by = ARITHMETIC.get(recipe.method) if merges else None
    passed_over, doubts = inventory.about(adapters)
    limits = reader_warnings(
        written_as,
        recipe.name,
        base_model,
        adapters,
        [site for task in tasks for site in task.sites],
        rank=recipe.rank or 0,
        compact=recipe.compact,
    )
    return Plan(
        recipe=recipe,
        base_model=base_model,
        dtype=_majority_dtype(adapters) if recipe.dtype == "majority" else recipe.dtype,
        format=written_as,
        adapters=adapters,
        weights=weights,
        refused=inventory.refused,
        tasks=tuple(tasks),
        memory_budget=memory_budget,
        warnings=(
            *recipe.notes,
            *_warnings(adapters, unused, base_model),
            *revision_warnings(adapters, base_model),
            *warnings_of_names(adapters),
            *warnings_of_trees(names),
            *difference_warnings(adapters, recipe.full_weights),
            *doubts,
            *noise_warnings(adapters),
            *license_conflicts(adapters),
            *_warnings_of_rank(recipe, tasks),
            *limits,
        ),
        limits=limits,
        digest=_digest(recipe, adapters, weights, scales, arithmetic=solved_by),
        former=_digest(recipe, adapters, weights, scales, {a.uri: a.version for a in adapters}),
        work=_digest(recipe, adapters, weights, scales, of_work=True, arithmetic=solved_by),
        earlier=()
        if solved_by is None
        else tuple(
            _digest(recipe, adapters, weights, scales, of_work=of_work) for of_work in (False, True)
        ),
        passed_over=tuple(passed_over),
        counts=inventory.counts,
    )


def former_digest(plan: Plan, marks: Mapping[str, str]) -> str:
    """The digest that an earlier release gave a plan: the store's marks of the adapters were in it.

    Args:
        plan: The plan.
        marks: The mark of each adapter then, by URI; the present one counts for those not in it.
    """
    sites = [site.site for task in plan.tasks for site in task.sites]
    sites += modules_of(plan.adapters)
    scales = site_scales_of(sites, plan.recipe.site_scales, complete=False)
    all_marks = {a.uri: marks.get(a.uri, a.version) for a in plan.adapters}
    return _digest(plan.recipe, plan.adapters, plan.weights, scales, all_marks)


def digests_by(plan: Plan, recipe: Recipe) -> frozenset[str]:
    """The digests that a plan of the same adapters has by another recipe, in this release or before.

    Args:
        plan: The plan.
        recipe: The other recipe, which asks for the same sites and scales.
    """
    sites = [site.site for task in plan.tasks for site in task.sites]
    sites += modules_of(plan.adapters)
    scales = site_scales_of(sites, recipe.site_scales, complete=False)
    about = (recipe, plan.adapters, plan.weights, scales)
    numbers = {None, None if recipe.is_open else ARITHMETIC.get(recipe.method)}
    return frozenset(
        _digest(*about, of_work=of_work, arithmetic=number)
        for of_work in (False, True)
        for number in numbers
    )


def _check_ranks(
    recipe: Recipe, tallies: Sequence[Tally], adapters: Sequence[AdapterRecord]
) -> None:
    ranks = {t.example.site: t.ranks for t in tallies}
    method = recipe.merge_method()
    try:
        method.check_ranks(ranks, 1 if recipe.rank is None else recipe.rank)
    except InvalidOption as error:
        # A LoKr or LoHa has a rank that its owner never saw.
        kinds = kinds_in(adapter.sites for adapter in adapters)
        problem = f"{error.problem}; {kinds}" if kinds else error.problem
        if recipe.rank is not None:
            raise InvalidOption(error.where, problem, error.hint) from error
        raise InvalidOption(
            "--rank auto" if recipe.rank_budget is None else "--rank-budget",
            f"the {method.name} method does not take every rank, so that there is none to choose: "
            f"{problem}",
            error.hint,
        ) from error


def _scaled(task: TaskPlan, scales: Mapping[str, float]) -> TaskPlan:
    sites = tuple(replace(site, scale=scales.get(site.site, 1.0)) for site in task.sites)
    return replace(task, sites=sites)


def tally_sites(adapters: Iterable[AdapterRecord]) -> list[Tally]:
    """What the adapters have at each site, in layer order."""
    adapters = list(adapters)
    tallies: dict[str, Tally] = {}
    sizes: dict[int, list[tuple[Tally, int, int]]] = {}
    for first, *_ in sharing_sites(adapters):
        mine = sizes[id(first.sites)] = []
        for factors in first.sites:
            found = tallies.setdefault(factors.site, Tally(factors))
            mine.append((found, factors.rank, factors.read_bytes))
            found.widened_bytes = max(found.widened_bytes, factors.widened_bytes)
            base = sum(weight.n_bytes for weight in factors.base_weights())
            found.base_bytes = max(found.base_bytes, base)
    for adapter in adapters:
        is_far = "://" in adapter.uri
        for found, rank, read_bytes in sizes[id(adapter.sites)]:
            found.is_far = found.is_far or is_far
            found.ranks.append(rank)
            found.read_bytes.append(read_bytes)
    return [found for _, found in sorted(tallies.items(), key=lambda item: _natural(item[0]))]


def _natural(site: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    parts = site.split("." if "." in site else "_")
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def _majority_dtype(adapters: Iterable[AdapterRecord]) -> str:
    """What most parameters are stored in; bfloat16, which holds any of them, for float8."""
    count: Counter[str] = Counter()
    for alike in sharing_sites(adapters):
        for factors in alike[0].sites:
            count[factors.a.dtype] += len(alike) * factors.rank * factors.d_in
            count[factors.b.dtype] += len(alike) * factors.rank * factors.d_out
    found = max(sorted(count), key=lambda dtype: count[dtype])
    return found if found in ("F32", "F16", "BF16") else "BF16"


def _check_layout(adapters: Sequence[AdapterRecord]) -> None:
    """`fan_in_fan_out` describes the base model's layers, so one base has one value."""
    layouts = {bool(a.config.get("fan_in_fan_out", False)): a.uri for a in adapters}
    if len(layouts) > 1:
        raise SiteShapeMismatch(
            layouts[True],
            f"fan_in_fan_out is true here and false in {layouts[False]}",
            "They were trained on different layer types; leave some out with --exclude.",
        )


def _warnings_of_rank(recipe: Recipe, tasks: Iterable[TaskPlan]) -> Iterable[str]:
    most = max((site.n_msus for task in tasks for site in task.sites), default=0)
    if recipe.rank and not recipe.compact and recipe.rank > most:
        yield (
            f"rank {recipe.rank} is more than the {most} MSUs of the module that has the most: the rest "
            f"is zeros, and --rank {most} gives the same updates"
        )


def _warnings(
    adapters: Sequence[AdapterRecord], unused: Sequence[AdapterRecord], base_model: str
) -> Iterable[str]:
    by_id: dict[str, list[str]] = {}
    for adapter in adapters:
        by_id.setdefault(adapter.adapter_id, []).append(adapter.uri)
    for uris in by_id.values():
        if len(uris) > 1:
            yield f"{', '.join(uris)} have the same content and are each merged"
    if not base_model and not any(a.base_model for a in adapters):
        yield "no adapter names its base model; give it with --base-model"
    for adapter in unused:
        yield f"{adapter.uri} has weight 0 and is left out"


def _digest(
    recipe: Recipe,
    adapters: Sequence[AdapterRecord],
    weights: Sequence[float],
    scales: Mapping[str, float],
    marks: Mapping[str, str] | None = None,
    *,
    of_work: bool = False,
    arithmetic: int | None = None,
) -> str:
    """Weights and scales count as adapters and sites have them, not by the names they were given by.

    A name may come to mean another adapter, and then the merge is another. A weight of 1 is none.
    With the adapters' marks by URI it is the digest of the releases that had them in it. The digest of
    the work leaves out what only says how the solved sites are written. Without a number of the
    arithmetic it is that of the first, which earlier releases had: what they published by it counts as
    published.
    """
    asked = recipe.as_json()
    if arithmetic is not None:
        asked["arithmetic"] = arithmetic
    asked.pop("base", None)  # the ids of the adapters that need it have it in them, by content
    asked.pop("only_base", None)  # which adapters are taken says it all
    if of_work:
        del asked["dtype"], asked["base_model"]
        alike = sharing_sites(adapters)
        # What is kept of an unfinished run is of the base model as it was read.
        if marks_of_base := sorted(
            {w.version for a, *_ in alike for f in a.sites for w in f.base_weights()}
        ):
            asked["base_marks"] = marks_of_base
    del asked["weights"], asked["site_scales"]
    if scales:
        asked["site_scales"] = dict(scales)
    if recipe.output_scale == 1:  # as plans were named before there was one
        del asked["output_scale"]
    for option in ("rank_error", "rank_budget", "ranks", "updatable", "parent"):  # likewise
        if not asked[option]:
            del asked[option]
    if any(has_other_names(adapter) for adapter in adapters):  # earlier releases gave other bits
        asked["names"] = 1
    if any(note.startswith(HEADER_ALPHA) for adapter in adapters for note in adapter.notes):
        asked["header_alpha"] = 1  # likewise
    sites = (f.site for alike in sharing_sites(adapters) for f in alike[0].sites)
    if recipe.compact and not of_work and any(map(shares_rank, sites)):
        asked["expert_ranks"] = 1  # likewise: each expert was stored at its own rank
    return digest_of(
        {
            "plan_version": PLAN_VERSION,
            "recipe": asked,
            "adapters": sorted(
                [
                    a.adapter_id,
                    *([] if marks is None else [marks[a.uri]]),
                    *([weight] if weight != 1 else []),
                ]
                for a, weight in zip(adapters, weights, strict=True)
            ),
        }
    )
