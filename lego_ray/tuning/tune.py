"""A search from its sources to the published merge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lego_ray.catalog.opening import check_before_writing
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.trials import record_trials
from lego_ray.errors import OutputExists, ScoringFailed, SourceChanged
from lego_ray.formats.record import AdapterRecord
from lego_ray.merging.merge import merge_at
from lego_ray.output.catalog_rows import catalogued
from lego_ray.output.write import manifest_at
from lego_ray.planning.arguments import checkpoints_of, limits_of, name_of, recipe_of
from lego_ray.planning.inventory import Choose, Inventory, check_strict
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.runners.inline import InlineRunner
from lego_ray.scoring.rows import CHOOSE
from lego_ray.scoring.scorer import Scorer
from lego_ray.sources.headers import Counted, scan_sources
from lego_ray.storage.places import Place
from lego_ray.storage.probe import probe_create_only
from lego_ray.tuning.catalog_rows import trial_rows
from lego_ray.tuning.crew import Crew
from lego_ray.tuning.objective import Objective
from lego_ray.tuning.record import TuneRecord
from lego_ray.tuning.report import Report, report_of
from lego_ray.tuning.search import Tried, best_of, next_choices
from lego_ray.tuning.space import Space
from lego_ray.tuning.study import DONE, FAILED, Study, Trial
from lego_ray.tuning.trial import TrialMaker, TrialReply, TrialRequest


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched, and how.

    Attributes:
        sources: Where the adapters are.
        fixed: Options of the merge that are not searched.
        space: Which merges are tried.
        scorer: What scores them.
        scored_by: The scorer, in JSON values that tell it from others.
        objective: What is raised.
        trials: How many are tried.
        seed: Fixes everything random.
        memory_budget: Most bytes that a merge may take.
        strict: Whether an adapter that is refused fails the search.
        gpus: Share of a GPU for each merge.
        threads: Most tasks of a merge that compute at once; None for one a CPU.
        base_scores: Whether the base model is given for the scorer, and maybe for no adapter.
        choose: Takes some of the adapters that are there; None to merge them all.
    """

    sources: Sequence[str]
    fixed: Mapping[str, Any]
    space: Space
    scorer: Scorer
    scored_by: Mapping[str, Any]
    objective: Objective
    trials: int
    seed: int
    memory_budget: int
    strict: bool
    gpus: float = 0.0
    threads: int | None = None
    base_scores: bool = False
    choose: Choose | None = None


def tune_at(
    search: Search,
    *,
    output: Place,
    study_at: Place,
    catalog: Catalog | None,
    crew_of: Callable[[TrialMaker], Crew],
    progress: Counted,
) -> TuneRecord:
    """Searches, and publishes the best merge; see `api.tune` for the promise.

    Args:
        search: What is searched.
        output: Where the best merge goes.
        study_at: Where trials are kept.
        catalog: Where the merge and the trials are recorded, or None.
        crew_of: Who makes the trials.
        progress: Called with the number of trials that ended, and of all.
    """
    started = time.perf_counter()
    search, maker, plan = _prepared(search, output, catalog)
    space = search.space.of([adapter.uri for adapter in plan.adapters])
    study = Study(study_at.open(), _identity(search, plan))
    crew = crew_of(maker)
    try:
        search.scorer.check()
        if catalog:
            check_before_writing(catalog)
        _check_output(output, study, search.trials)
        probe_create_only(study_at.open())
        study.begin()
        trials, read = _try_all(search, space, study, crew, progress)
        best = _best(trials)
        report = _reported(study, best, trials, crew, search.objective)
    finally:
        crew.close()
        search.scorer.close()
    options = best.choice.options(search.fixed)
    runner = InlineRunner(search.gpus)
    try:
        merge = merge_at(
            search.sources,
            recipe_of(output, options),  # type: ignore[arg-type]
            output=output,
            catalog=catalog,
            runner=runner,
            memory_budget=search.memory_budget,
            strict=search.strict,
            progress=lambda plan, result: None,
            trainer_checkpoints=checkpoints_of(search.fixed),  # type: ignore[arg-type]
            limits=limits_of(search.fixed),  # type: ignore[arg-type]
            choose=partial(_as_scored, search.choose, plan),
        )
    finally:
        runner.close()
    if merge.merge_id is not None:
        study.keep_published(merge.merge_id, len(trials), best)
    if catalog:
        record_trials(catalog, study.study_id, trial_rows(study.study_id, trials, best, merge))
    failed = [trial for trial in trials if trial.status == FAILED]
    return TuneRecord(
        study_id=study.study_id,
        study=study.uri,
        trials=len(trials),
        failed=len(failed),
        failures=tuple({"trial": t.number, "reason": t.reason} for t in failed),
        best={
            key: value
            for key, value in best.as_json().items()
            if key in ("trial", "parameters", "value", "score", "tasks")
        },
        options={k: v for k, v in options.items() if k not in search.fixed},
        report=report.scores,
        differences=report.differences,
        merge=merge,
        output=str(output),
        catalog=catalog.uri if catalog else None,
        seconds=round(time.perf_counter() - started, 3),
        bytes_read=read + report.bytes_read,
        warnings=(*_warnings(report, failed, len(trials)), *merge.warnings),
    )


def _prepared(
    search: Search, output: Place, catalog: Catalog | None
) -> tuple[Search, TrialMaker, Plan]:
    """What makes the trials, and the plan of the first one: what is wrong with it is wrong with all.

    A base model that only the scorer needs is not passed to the merges.
    """
    fixed = search.fixed
    name = name_of(fixed.get("name"), output)
    options = {**search.space.first(next(iter(search.space.presets), None)).options(fixed)}
    recipe = recipe_of(output, {**options, "name": name})  # type: ignore[typeddict-item]
    scan = scan_sources(
        search.sources,
        exclude=recipe.exclude,
        full_weights=recipe.full_weights,
        checkpoints=checkpoints_of(fixed),  # type: ignore[arg-type]
        skip=[output],
        known=catalogued(catalog),
        limits=limits_of(fixed),  # type: ignore[arg-type]
        base=recipe.base,
    )
    check_strict(scan.inventory, search.strict)
    inventory = search.choose(scan.inventory) if search.choose else scan.inventory
    plan = make_plan(recipe, inventory, sources=search.sources, memory_budget=search.memory_budget)
    if search.base_scores and not _needs_base(plan):
        fixed = {name: value for name, value in fixed.items() if name != "base"}
        return _prepared(replace(search, fixed=fixed, base_scores=False), output, catalog)
    maker = TrialMaker(
        search.sources,
        inventory,
        fixed,
        name,
        search.scorer,
        search.memory_budget,
        search.gpus,
        search.threads,
    )
    return search, maker, plan


def _as_scored(choose: Choose | None, plan: Plan, found: Inventory) -> Inventory:
    """The adapters that are there, which must be those that were scored.

    Raises:
        SourceChanged: If one was added, removed or written again since.
    """
    chosen = choose(found) if choose else found
    scored, here = _marks(plan.adapters), _marks(chosen.adapters)
    for uri in sorted(scored.keys() | here.keys()):
        if scored.get(uri) == here.get(uri):
            continue
        what = "was written again" if uri in scored and uri in here else "is gone"
        what = what if uri in scored else "is new"
        problem = (
            f"it {what} since the merges were scored, so the best of them is of other adapters"
        )
        raise SourceChanged(
            uri, problem, "Run the same command again: it scores merges of what is there.", uri
        )
    return chosen


def _marks(adapters: Iterable[AdapterRecord]) -> dict[str, tuple[str, ...]]:
    return {a.uri: (a.adapter_id, a.mark, a.config_version) for a in adapters}


def _needs_base(plan: Plan) -> bool:
    """Whether the update of an adapter is computed with the base model."""
    return any(
        True for adapter in plan.adapters for site in adapter.sites for _ in site.base_weights()
    )


def _identity(search: Search, plan: Plan) -> dict[str, Any]:
    """What a study is of; the number of trials is not part of it, so that one can be continued."""
    recipe = plan.recipe.as_json()
    del recipe["name"], recipe["seed"]
    return {
        "adapters": sorted([adapter.uri, adapter.adapter_id] for adapter in plan.adapters),
        "recipe": recipe,
        "space": search.space.as_json(),
        "scorer": dict(search.scored_by),
        "objective": {"kind": search.objective.kind, "weights": dict(search.objective.weights)},
        "seed": search.seed,
    }


def _check_output(output: Place, study: Study, trials: int) -> None:
    """Finds before any trial that the output is taken; by the merge of this study it may be.

    Raises:
        OutputExists: If it is taken.
    """
    if manifest_at(output.open()) is None or study.report(trials) is not None:
        return  # what else may be there is looked at when the merge is published
    raise OutputExists(
        str(output),
        "it holds a merge, and the best of this search may be another",
        "Choose another --output; --study URI continues the trials of a study there.",
    )


def _try_all(
    search: Search, space: Space, study: Study, crew: Crew, progress: Counted
) -> tuple[list[Trial], int]:
    """Makes the trials that the study does not have yet.

    Returns:
        All of them by number, and bytes read.

    Raises:
        ScoringFailed: If the first ones all fail.
    """
    kept = {trial.number: trial for trial in study.trials() if trial.number < search.trials}
    if kept and not any(trial.status == DONE for trial in kept.values()):
        study.forget(list(kept.values()))  # of a scorer that may work by now
        kept = {}
    tried: list[Trial] = []
    bytes_read = 0
    progress(len(kept), search.trials)
    while len(tried) < search.trials:
        start = len(tried)
        most = min(crew.size, search.trials - start)
        known = [Tried(t.number, t.choice, t.value) for t in tried]
        numbered = dict(enumerate(next_choices(space, search.seed, known, most), start))
        asked = [TrialRequest(n, c, CHOOSE) for n, c in numbered.items() if n not in kept]
        for reply in crew.replies(asked):
            trial = _ended(numbered, reply, search.objective)
            study.keep(trial)
            kept[trial.number] = trial
            bytes_read += reply.bytes_read
            progress(len(kept), search.trials)
        tried += [kept[number] for number in numbered]
        _check_some_work(study, tried, min(search.trials, max(len(space.presets), crew.size)))
    return tried, bytes_read


def _ended(numbered: Mapping[int, Any], reply: TrialReply, objective: Objective) -> Trial:
    choice, score, value, reason = numbered[reply.number], reply.score, None, reply.reason
    if score is not None:
        try:
            value = objective.value(score)
        except ScoringFailed as error:
            score, reason = None, f"{type(error).__name__}: {error}"
    status = FAILED if score is None else DONE
    return Trial(reply.number, choice, status, score, value, reply.seconds, reason)


def _check_some_work(study: Study, tried: Sequence[Trial], enough: int) -> None:
    """Passes unless the first trials have all failed; then they are forgotten, to be tried again.

    Raises:
        ScoringFailed: If they have.
    """
    if len(tried) < enough or any(trial.status == DONE for trial in tried):
        return
    study.forget(tried)
    raise ScoringFailed(
        "tune",
        f"all of the first {len(tried)} trials failed; the last one: {tried[-1].reason}".rstrip(
            "."
        ),
        "Run the scorer by hand on an adapter directory, then the same command again.",
    )


def _best(trials: Sequence[Trial]) -> Trial:
    best = best_of([Tried(t.number, t.choice, t.value) for t in trials])
    assert best is not None  # `_check_some_work` has seen to it
    return trials[best.number]


def _reported(
    study: Study, best: Trial, trials: list[Trial], crew: Crew, objective: Objective
) -> Report:
    """The scores on rows that were held out, as the study keeps them or made now."""
    known = study.report(len(trials))
    if known is not None:
        return Report(known["scores"], known["differences"], bool(known["is_held_out"]))
    report = report_of(best, trials, crew, objective)
    study.keep_report(len(trials), report.as_json())
    return report


def _warnings(report: Report, failed: Sequence[Trial], trials: int) -> list[str]:
    found = []
    if failed:
        found.append(
            f"{len(failed)} of {trials} trials failed; the first, trial {failed[0].number}: "
            f"{failed[0].reason}"
        )
    if not report.is_held_out:
        found.append(
            "the scorer gave the same scores for both halves of the split, so the best score is not "
            "held out: let it score only the rows of {split}, or of the variable LEGO_RAY_SPLIT"
        )
    return found
