"""Which merge to try next: a pure function of the space, the seed and the trials so far.

First each preset as it is, then the best of them at other norms, then by a tree-structured Parzen
estimator (Optuna's) over preset, scale, spectrum and rank; from `FIRST` trials on, scale, spectrum and
the adapters' weights by CMA-ES around the best trial until then.

Nothing is held from one call to the next, so a study that goes on after a kill tries what it would have
tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lego_ray.planning.recipe import site_seed
from lego_ray.tuning.evolution import generation_size, generations
from lego_ray.tuning.space import Choice, Space, rounded

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Trials of the first part: method and norm settle most of what a search gains.
FIRST = 16
# Factors on the best preset's output scale that are tried before anything is drawn.
NEARBY = (1.5, 1 / 1.5, 2.0, 0.5)
_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial that ended.

    Attributes:
        number: Its number, from 0.
        choice: What it merged by.
        value: What it reached; None if it failed.
    """

    number: int
    choice: Choice
    value: float | None


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """The best trial, of equal ones the first; None if all failed."""
    done = [each for each in tried if each.value is not None]
    return max(done, key=lambda t: (t.value, -t.number), default=None)


def next_choices(space: Space, seed: int, tried: Sequence[Tried], most: int) -> list[Choice]:
    """What to try next, at once.

    Args:
        space: Where to search.
        seed: Fixes everything random.
        tried: The trials so far, numbered from 0 without a gap.
        most: Most choices, as many as are tried at once.

    Returns:
        From 1 to `most` choices. The same arguments give the same choices.
    """
    number = len(tried)
    if number < FIRST or not (space.is_weighted or space.scale.is_open):
        left = FIRST - number if number < FIRST else most
        return _first_part(space, seed, tried, min(most, left))
    best = best_of(tried[:FIRST])
    start = best.choice if best else space.first(_presets(space)[0])
    drawn = generations(
        space, site_seed(seed, "weights") % _SEEDS, start, [t.value for t in tried[FIRST:]]
    )
    done = (number - FIRST) % generation_size(space, start)
    return drawn[done : done + most]


def _presets(space: Space) -> Sequence[str | None]:
    return space.presets or (None,)


def _first_part(space: Space, seed: int, tried: Sequence[Tried], count: int) -> list[Choice]:
    found: list[Choice] = []
    waiting: list[Choice] = []
    for number in range(len(tried), len(tried) + count):
        choice = _settled(space, tried, number)
        if choice is None:
            waiting = waiting or list(found)
            choice = _drawn(space, seed, tried, waiting, number)
            waiting.append(choice)
        found.append(choice)
    return found


def _settled(space: Space, tried: Sequence[Tried], number: int) -> Choice | None:
    """A trial that is not drawn: a preset as it is, or the best one near its norm."""
    presets = _presets(space)
    if number < len(presets):
        return space.first(presets[number])
    number -= len(presets)
    best = best_of(tried[: len(presets)])
    if best is None or not space.scale.is_open or number >= len(NEARBY):
        return None
    return replace(best.choice, scale=space.scale.held(round(NEARBY[number], 4)))


def _drawn(
    space: Space, seed: int, tried: Sequence[Tried], waiting: Sequence[Choice], number: int
) -> Choice:
    """A choice by the estimator, given what was tried and what is being tried at the same time."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = _distributions(space)
    if not known:
        return space.first(_presets(space)[0])
    sampler = optuna.samplers.TPESampler(
        seed=site_seed(seed, f"trial {number}") % _SEEDS,
        n_startup_trials=min(number, len(_presets(space))),
        constant_liar=True,
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    worst = min((t.value for t in tried if t.value is not None), default=0.0)
    for each in tried:
        parameters = _parameters(space, each.choice)
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=worst if each.value is None else each.value,
                params=parameters,
                distributions={name: known[name] for name in parameters},
            )
        )
    for choice in waiting:
        parameters = _parameters(space, choice)
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=parameters,
                distributions={name: known[name] for name in parameters},
            )
        )
    return _choice(space, study.ask(), known)


def _distributions(space: Space) -> Mapping[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    known: dict[str, BaseDistribution] = {}
    if len(space.presets) > 1:
        known["preset"] = CategoricalDistribution(space.presets)
    if space.scale.is_open:
        known["scale"] = FloatDistribution(*space.scale, log=True)
    if space.spectrum and space.spectrum.is_open:
        known["flattened"] = CategoricalDistribution((False, True))
        known["spectrum"] = FloatDistribution(*space.spectrum)
    if len(space.ranks) > 1:
        known["rank"] = CategoricalDistribution(space.ranks)
    return known


def _parameters(space: Space, choice: Choice) -> dict[str, Any]:
    """A choice as the estimator knows it."""
    found: dict[str, Any] = {}
    if len(space.presets) > 1:
        found["preset"] = choice.preset
    if space.scale.is_open:
        found["scale"] = space.scale.held(choice.scale)
    if space.spectrum and space.spectrum.is_open:
        found["flattened"] = choice.spectrum is not None
        if choice.spectrum is not None:
            found["spectrum"] = space.spectrum.held(choice.spectrum)
    if len(space.ranks) > 1:
        found["rank"] = choice.rank
    return found


def _choice(space: Space, trial: Any, known: Mapping[str, BaseDistribution]) -> Choice:
    """What a trial of the estimator suggests."""
    presets = _presets(space)
    first = space.first(
        trial.suggest_categorical("preset", presets) if "preset" in known else presets[0]
    )
    scale, spectrum, rank = first.scale, first.spectrum, first.rank
    if "scale" in known:
        scale = space.scale.held(rounded(trial.suggest_float("scale", *space.scale, log=True)))
    if "flattened" in known and trial.suggest_categorical("flattened", (False, True)):
        assert space.spectrum is not None
        spectrum = space.spectrum.held(rounded(trial.suggest_float("spectrum", *space.spectrum)))
    if "rank" in known:
        rank = int(trial.suggest_categorical("rank", space.ranks))
    return replace(first, scale=scale, spectrum=spectrum, rank=rank)
