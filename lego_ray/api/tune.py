"""Finds the best merge for a user's own data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from os import fspath
from typing import Any, Unpack

from lego_ray.arguments import checked_with
from lego_ray.catalog.opening import open_catalog
from lego_ray.errors import InvalidOption, MissingPackage
from lego_ray.options import keywords_of, picked
from lego_ray.output.study_files import BESIDE
from lego_ray.planning.arguments import (
    Uri,
    output_place,
    parse_bytes,
    recipe_among,
    recipe_of,
    sources_given,
    writable,
)
from lego_ray.planning.inventory import Choose
from lego_ray.planning.options import RUNNERS, RecipeOptions, RunOptions
from lego_ray.scoring.child import ChildScorer
from lego_ray.scoring.rows import read_rows
from lego_ray.scoring.scorer import Scorer, scorer_of
from lego_ray.scoring.texts import TARGET
from lego_ray.sources.headers import Counted, untold
from lego_ray.storage.buckets import buckets_in_use
from lego_ray.storage.places import HubPlace, Place
from lego_ray.storage.uri import parse_uri
from lego_ray.tuning.crew import Crew, LoneCrew, RayCrew
from lego_ray.tuning.objective import Objective
from lego_ray.tuning.options import SearchOptions, TuneOptions
from lego_ray.tuning.record import TuneRecord
from lego_ray.tuning.space import space_of
from lego_ray.tuning.trial import TrialMaker
from lego_ray.tuning.tune import Search, tune_at


@checked_with(TuneOptions)
def tune(
    sources: Uri | Sequence[Uri],
    *,
    output: Uri | None = None,
    catalog: Uri | None = None,
    runner: str = "auto",
    progress: Counted = untold,
    **options: Unpack[TuneOptions],
) -> TuneRecord:
    """Merges the adapters in many ways, scores each, and publishes the best as a normal merge.

    A trial is a merge in a temporary folder, which the scorer reads. Tensors of the adapters stay in
    memory between trials, up to `memory_budget`. The first trials are presets as they are, so the best
    is never below them on the rows that trials are scored on. On the other half of the rows the best,
    `adaptive` and `paper` are scored once, at the end.

    The same sources, options, scorer and seed try the same merges. A run that ended early, called again,
    goes on from the trials that are kept at `study`; more `trials` continue a study.

    Args:
        sources: As for `merge`; or a recipe file with one merge, which may have a section `tune`. What
            is given here comes before what the file says.
        output: Where to write the best merge: a directory or `s3://bucket/prefix`. None for what the
            recipe file says.
        catalog: Where its catalog is; created if missing. None for that of the recipe file, if any.
        runner: `ray` for trials beside each other on Ray, `workers` at once; `inline` for this process
            and one after another; or `auto`: Ray if `address`, `workers` or `gpus` is given.
        progress: Called with the number of trials that ended, and of all.
        **options: See `TuneOptions`. Options of the merge that are given are not searched.

    Returns:
        The record of the search; see `TuneRecord`, which is read like a dictionary too.

    Raises:
        BadInput: If it cannot be made as asked; nothing was tried.
        RecipeError: If a recipe file is not as it must be; every fault is named.
        OutputExists: If the output holds something else.
        ScoringFailed: If the first trials all fail.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish; nothing was published, and the trials are kept.
    """
    flags = {name: value for name, value in options.items() if value is not None}
    words = sources_given(sources)
    recipe = recipe_among(words)
    if recipe is None:
        if output is None:
            raise InvalidOption(
                "--output", "nothing says where the best merge goes", "Give --output."
            )
        place, recorded = output_place(output), fspath(catalog) if catalog else None
        return _tuned(words, flags, place, recorded, runner, progress, None)
    # Imports what builds libraries, which a search of sources needs nothing of.
    from lego_ray.api.tune_recipe import asked_search

    search = asked_search(
        recipe,
        flags,
        output=fspath(output) if output else None,
        catalog=fspath(catalog) if catalog else None,
    )
    with buckets_in_use(search.buckets):
        return _tuned(
            search.sources,
            search.options,
            search.output,
            search.catalog,
            runner,
            progress,
            search.choose,
        )


def _tuned(
    sources: Sequence[str],
    options: Mapping[str, Any],
    place: Place,
    catalog: str | None,
    runner: str,
    progress: Counted,
    choose: Choose | None,
) -> TuneRecord:
    """Searches; see `tune`."""
    asked = picked(SearchOptions, options)
    for name, keyword in keywords_of(SearchOptions).items():
        keyword.check(asked[name])
    given: dict[str, Any] = {
        name: value
        for name, value in options.items()
        if name in keywords_of(RecipeOptions) and value is not None
    }
    space = space_of(asked["space"], given)
    scorer, scored_by = _scorer(asked, given)
    run = picked(RunOptions, options)
    for name in ("max_workers", "wait"):
        if run[name] is not None:
            raise InvalidOption(keywords_of(RunOptions)[name].flag, "a search does not have it")
    recipe_of(place, {**given, "rank": space.ranks[0]})  # type: ignore[typeddict-item]
    search = Search(
        sources=sources,
        fixed=given,
        space=space,
        scorer=scorer,
        scored_by=scored_by,
        objective=Objective(asked["objective"], asked["task_weights"] or {}),
        trials=asked["trials"],
        seed=given.get("seed") or 0,
        memory_budget=parse_bytes(run["memory_budget"]),
        strict=run["strict"],
        gpus=run["gpus"],
        base_scores=bool(asked["score_texts"]),
        choose=choose,
    )
    opened = open_catalog(catalog) if catalog else None

    keywords_of(RunOptions)["workers"].check(run["workers"])
    on_ray = _is_on_ray(runner, run)

    def crew_of(maker: TrialMaker) -> Crew:
        if on_ray:
            return RayCrew(maker, address=run["address"], workers=run["workers"])
        return LoneCrew(maker)

    return tune_at(
        search,
        output=place,
        study_at=_study_place(asked["study"], place),
        catalog=opened,
        crew_of=crew_of,
        progress=progress,
    )


def _is_on_ray(runner: str, run: dict[str, Any]) -> bool:
    """Whether trials run on Ray.

    Raises:
        InvalidOption: If there is no such runner, or this process is to be several workers.
    """
    if runner not in RUNNERS:
        raise InvalidOption("--runner", f"{runner!r} is not one of {', '.join(RUNNERS)}")
    if runner == "inline" and (run["workers"] or 1) > 1:
        raise InvalidOption(
            "--workers", "trials in this process run one after another", "Use --runner ray."
        )
    asked = run["address"] != "local" or run["workers"] is not None or run["gpus"]
    return runner == "ray" or (runner == "auto" and bool(asked))


def _require(*packages: str) -> None:
    """Passes if some packages are installed, without importing them.

    Raises:
        MissingPackage: If one is not.
    """
    for name in packages:
        if find_spec(name) is None:
            raise MissingPackage(
                "this Python",
                f"the package {name} is not installed",
                "pip install 'lego-ray[tune]'",
            )


def _study_place(given: Uri, output: Place) -> Place:
    return writable(parse_uri(given or f"{output}{BESIDE}"))


def _scorer(asked: dict[str, Any], given: dict[str, Any]) -> tuple[Scorer, dict[str, Any]]:
    """The scorer, and what tells it from others.

    Raises:
        InvalidOption: If none or two are given, or the texts or the base model cannot be used.
        MissingPackage: If a package is missing.
    """
    score, texts, seconds = asked["score"], asked["score_texts"], asked["time_limit_per_trial"]
    _require("optuna", "cmaes")
    if score is not None and texts:
        raise InvalidOption("--score-texts", "--score is also given", "Give one of them.")
    if score is not None:
        return scorer_of(score, seconds), {"command": score}
    if not texts:
        raise InvalidOption(
            "--score",
            "nothing says how a merge is scored",
            'Give --score "python score.py {adapter}", or --score-texts FILE with --base.',
        )
    file, settings = str(parse_uri(texts)), _base_of(given)
    rows = read_rows(file)
    _require("transformers", "peft")
    marks = hashlib.sha256("".join(sorted(row.mark for row in rows)).encode()).hexdigest()
    scorer = ChildScorer(TARGET, seconds, {"texts": file, **settings})
    return scorer, {"texts": marks, **settings}


def _base_of(given: dict[str, Any]) -> dict[str, str]:
    """The base model of `--base`, as transformers takes it."""
    if not given.get("base"):
        raise InvalidOption(
            "--score-texts", "it needs the base model", "Give its directory with --base."
        )
    place = parse_uri(given["base"])
    if isinstance(place, HubPlace) and not place.subfolder:
        return {"base": place.repo_id, "revision": place.revision}
    if not place.is_local:
        raise InvalidOption(
            "--base",
            f"{place} is not a directory of this machine, nor a repository of the Hub",
            "Copy the base model to a directory.",
        )
    return {"base": str(place), "revision": ""}
