"""The search that a merge is the best of: trials, what mattered, tasks, and rows that were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from lego_ray.reporting.drawing import Drawing, canvas, clip, fewer, series_style
from lego_ray.reporting.facts import Facts
from lego_ray.reporting.front import Front, front
from lego_ray.reporting.importance import FEWEST, importances
from lego_ray.reporting.numbers import number, percent
from lego_ray.reporting.study import StudyFacts, TrialFacts
from lego_ray.reporting.style import LIGHT

# Bars of parameters that a figure shows; of adapters' weights there may be many.
MOST_BARS = 12
_FAILED = 6


@dataclass(frozen=True, slots=True)
class Importance:
    """How much each parameter matters.

    Attributes:
        shares: Of each, the largest first.
        drawing: The figure.
    """

    shares: Mapping[str, float]
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The best merge beside presets, on rows that no trial was chosen by.

    Attributes:
        rows: Of each merge: its name, value or None, how far the best is above it, that difference's
            standard error, and why it has no value.
        tasks: Of each preset and task: score of the best, of the preset, difference and its error.
        drawing: The differences; None if there are none.
    """

    rows: Sequence[tuple[str, float | None, float | None, float | None, str]]
    tasks: Sequence[tuple[str, str, float | None, float | None, float, float | None]]
    drawing: Drawing | None


@dataclass(frozen=True, slots=True)
class SearchShown:
    """What the section shows.

    Attributes:
        study: The study.
        failed: Trials that failed.
        rows: Of each trial: its number, value, parameters in words, and why it failed.
        progress: Scores against trials.
        importance: How much each parameter matters, or None.
        why_not: Why importance is missing; empty if it is given.
        front: The tasks against each other; None with fewer than two.
        held_out: The best beside presets; None if it was not scored.
    """

    study: StudyFacts
    failed: Sequence[TrialFacts]
    rows: Sequence[tuple[int, float | None, str, str]]
    progress: Drawing
    importance: Importance | None
    why_not: str
    front: Front | None
    held_out: HeldOut | None


def search(facts: Facts) -> SearchShown | None:
    """What is shown of the study that a merge is the best of, if it is of one."""
    study = facts.study
    if study is None:
        return None
    shares = importances(study.done)
    return SearchShown(
        study,
        [trial for trial in study.trials if trial.value is None],
        [(t.number, t.value, in_words(t.parameters), t.reason) for t in study.trials],
        _progress(study),
        Importance(shares, _bars(shares)) if shares else None,
        "" if shares else _why_not(study),
        front(study),
        _held_out(study),
    )


def in_words(parameters: Mapping[str, Any]) -> str:
    """What a trial merged by, in short: weights are counted."""
    words = [
        str(parameters["preset"]) if parameters.get("preset") else "",
        f"rank {parameters['rank']}" if parameters.get("rank") else "",
        f"norm times {number(float(parameters.get('scale', 1.0)))}",
    ]
    if parameters.get("spectrum") is not None:
        words.append(f"spectrum {number(float(parameters['spectrum']))}")
    if parameters.get("weights"):
        low, high = min(parameters["weights"].values()), max(parameters["weights"].values())
        words.append(f"weights {number(float(low))} to {number(float(high))}")
    return ", ".join(word for word in words if word)


def _why_not(study: StudyFacts) -> str:
    if find_spec("optuna") is None:
        return (
            "How much each parameter matters is estimated by Optuna, which is not installed: "
            "pip install 'lego-ray[tune]'."
        )
    if len(study.done) < FEWEST:
        return f"How much each parameter matters is estimated from {FEWEST} scored trials on."
    return "Trials differ in no parameter, or have one score, so no parameter matters more than another."


def _progress(study: StudyFacts) -> Drawing:
    """Scores against trials, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    done = study.done
    values = [trial.value or 0.0 for trial in done]
    low, high = min(values), max(values)
    with canvas("search-figure", 3.9) as drawn:
        axes = drawn.axes
        last = study.trials[-1].number
        best = list(accumulate(values, max))
        axes.step(
            [*(t.number for t in done), last],
            [*best, best[-1]],
            where="post",
            color=series_style(1)[0],
            linewidth=1.6,
            label="best so far",
        )
        titles = [f"trial {t.number}: {number(t.value)}; {in_words(t.parameters)}" for t in done]
        numbers = [t.number for t in done]
        drawn.marks(numbers, values, titles, 0, s=26, label="trial", zorder=3)
        failed = [trial for trial in study.trials if trial.value is None]
        if failed:
            bottom = [low - 0.08 * ((high - low) or abs(low) or 1.0)] * len(failed)
            titles = [f"trial {t.number} failed: {t.reason}" for t in failed]
            numbers = [t.number for t in failed]
            drawn.marks(numbers, bottom, titles, _FAILED, s=34, label="failed", zorder=3)
        axes.set_xlabel("trial")
        axes.set_ylabel("score")
        locator = MaxNLocator(nbins=fewer(14), integer=True, min_n_ticks=1)
        axes.xaxis.set_major_locator(locator)
        axes.grid()
        drawn.legend()
        return drawn.finish()


def _bars(shares: Mapping[str, float]) -> Drawing:
    shown = list(shares.items())[:MOST_BARS]
    with canvas("importance-figure", 0.8 + 0.3 * len(shown)) as drawn:
        axes = drawn.axes
        places = range(len(shown))
        bars = axes.barh(places, [share for _, share in shown], color=LIGHT["c0"], height=0.62)
        axes.set_yticks(places, [clip(name) for name, _ in shown])
        axes.bar_label(bars, [percent(share) for _, share in shown], padding=5, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * (max(share for _, share in shown) or 1.0))
        axes.set_xticks([])
        axes.tick_params(axis="y", length=0)
        return drawn.finish()


def _held_out(study: StudyFacts) -> HeldOut | None:
    if not study.scores:
        return None
    rows = []
    tasks = []
    mine = study.scores.get("best", {}).get("tasks") or {}
    for name, scored in study.scores.items():
        apart = study.differences.get(name) or {}
        rows.append(
            (
                name,
                scored.get("value"),
                apart.get("difference"),
                apart.get("error"),
                str(scored.get("reason", "")),
            )
        )
        theirs = scored.get("tasks") or {}
        tasks += [
            (name, task, mine.get(task), theirs.get(task), each["difference"], each["error"])
            for task, each in (apart.get("tasks") or {}).items()
        ]
    return HeldOut(rows, tasks, _differences(study.differences) if study.differences else None)


def _differences(differences: Mapping[str, Mapping[str, Any]]) -> Drawing:
    """How far the best is above each preset, with the standard error as a bar."""
    from matplotlib.ticker import MaxNLocator

    names = list(differences)
    values = [float(differences[name]["difference"]) for name in names]
    errors = [float(differences[name]["error"] or 0.0) for name in names]
    with canvas("held-out-figure", 0.9 + 0.42 * len(names)) as drawn:
        axes = drawn.axes
        places = list(range(len(names)))
        axes.axvline(0, color=LIGHT["axis"], linewidth=1, linestyle="--")
        axes.errorbar(
            values, places, xerr=errors, fmt="none", ecolor=LIGHT["c0"], elinewidth=2, capsize=4
        )
        titles = [
            f"above {name} by {number(value)}" + (f" ± {number(error)}" if error else "")
            for name, value, error in zip(names, values, errors, strict=True)
        ]
        drawn.marks(values, places, titles, 0, s=44, zorder=3)
        axes.set_yticks(places, [f"above {clip(name)}" for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=fewer(9)))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("difference of the score")
        axes.grid(axis="x")
        return drawn.finish()
