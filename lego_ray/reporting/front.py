"""The Pareto front of tasks: trials that no other trial is above on every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lego_ray.reporting.drawing import Drawing, canvas, clip, fewer, series_style
from lego_ray.reporting.numbers import number
from lego_ray.reporting.study import StudyFacts, TrialFacts
from lego_ray.reporting.style import LIGHT

# Tasks that a figure has rows for.
MOST_TASKS = 24
_OTHER = 6


@dataclass(frozen=True, slots=True)
class Front:
    """Tasks against each other.

    Attributes:
        tasks: Their names, in the scorer's order.
        trials: Those of the front, the best by the objective first.
        of: How many trials have a score for each task.
        drawn: How many of the tasks are in the figure.
        drawing: The figure.
    """

    tasks: Sequence[str]
    trials: Sequence[TrialFacts]
    of: int
    drawn: int
    drawing: Drawing


def front(study: StudyFacts) -> Front | None:
    """The front of a study's tasks; None with fewer than two tasks."""
    tasks = list(study.best.tasks)
    if len(tasks) < 2:
        return None
    known = [trial for trial in study.done if all(task in trial.tasks for task in tasks)]
    best = undominated(known, tasks)
    draw = _plane if len(tasks) == 2 else _rows
    shown = tasks[:MOST_TASKS]
    return Front(tasks, best, len(known), len(shown), draw(known, best, shown))


def undominated(trials: Sequence[TrialFacts], tasks: Sequence[str]) -> list[TrialFacts]:
    """Trials that no other is at least as good as on each task and better on one.

    Args:
        trials: Trials with a score for each task.
        tasks: The tasks.

    Returns:
        Those trials, the one with the highest value first.
    """
    scores = {trial.number: [trial.tasks[task] for task in tasks] for trial in trials}
    found = [
        trial
        for trial in trials
        if not any(
            all(a >= b for a, b in zip(other, scores[trial.number], strict=True))
            and other != scores[trial.number]
            for other in scores.values()
        )
    ]
    return sorted(found, key=lambda trial: (-(trial.value or 0.0), trial.number))


def _title(trial: TrialFacts, tasks: Sequence[str]) -> str:
    told = ", ".join(f"{task} {number(trial.tasks[task])}" for task in tasks)
    return f"trial {trial.number}: {told}"


def _plane(
    known: Sequence[TrialFacts], best: Sequence[TrialFacts], tasks: Sequence[str]
) -> Drawing:
    """Two tasks as the axes of a plane."""
    from matplotlib.ticker import MaxNLocator

    one, other = tasks
    with canvas("front-figure", 4.6) as drawn:
        axes = drawn.axes
        along = sorted(best, key=lambda trial: (trial.tasks[one], -trial.tasks[other]))
        axes.step(
            [trial.tasks[one] for trial in along],
            [trial.tasks[other] for trial in along],
            where="pre",
            color=series_style(0)[0],
            linewidth=1.1,
        )
        on_it = {trial.number for trial in best}
        rest = [trial for trial in known if trial.number not in on_it]
        for kind, trials, label in (
            (_OTHER, rest, "other trials"),
            (0, best[1:], "on the front"),
            (1, best[:1], "on the front, and the best score of them"),
        ):
            if trials:
                x, y = ([trial.tasks[task] for trial in trials] for task in tasks)
                titles = [_title(trial, tasks) for trial in trials]
                drawn.marks(x, y, titles, kind, s=34, label=label, zorder=3)
        axes.set_xlabel(clip(one))
        axes.set_ylabel(clip(other))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=fewer(9)))
        axes.grid()
        drawn.legend()
        return drawn.finish()


def _rows(known: Sequence[TrialFacts], best: Sequence[TrialFacts], tasks: Sequence[str]) -> Drawing:
    """A row a task, from the worst trial to the best one; a line a trial of the front."""
    ends = {
        task: (min(t.tasks[task] for t in known), max(t.tasks[task] for t in known))
        for task in tasks
    }

    def at(trial: TrialFacts) -> list[float]:
        return [
            (trial.tasks[task] - low) / (high - low) if high > low else 0.5
            for task, (low, high) in ends.items()
        ]

    with canvas("front-figure", 1.5 + 0.3 * len(tasks)) as drawn:
        axes = drawn.axes
        places = list(range(len(tasks)))
        on_it = {trial.number for trial in best}
        rest = [trial for trial in known if trial.number not in on_it]
        for trial in best[1:]:
            axes.plot(at(trial), places, color=LIGHT["c0"], linewidth=0.9, alpha=0.6)
        axes.plot(at(best[0]), places, color=LIGHT["c1"], linewidth=1.8)
        for kind, trials, label in (
            (_OTHER, rest, "other trials"),
            (0, best[1:], "on the front"),
            (1, best[:1], "on the front, and the best score of them"),
        ):
            if trials:
                x = [share for trial in trials for share in at(trial)]
                y = places * len(trials)
                titles = [
                    f"trial {trial.number}, {task}: {number(trial.tasks[task])}"
                    for trial in trials
                    for task in tasks
                ]
                drawn.marks(x, y, titles, kind, s=22, label=label, zorder=3)
        axes.set_yticks(places, [clip(task) for task in tasks])
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.set_xticks([0, 1], ["worst trial", "best trial"])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y")
        drawn.legend()
        return drawn.finish()
