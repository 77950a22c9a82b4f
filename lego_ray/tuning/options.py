"""The options of a search: types, bounds, help and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Annotated, TypedDict

from lego_ray.options import Option
from lego_ray.planning.options import MergeOptions

SCORE, MEAN, LEAST, WEIGHTED = "score", "mean", "min", "weighted"
OBJECTIVES = (SCORE, MEAN, LEAST, WEIGHTED)
DEFAULT_TRIALS = 64
DEFAULT_TIME_LIMIT = 3600.0


class SearchOptions(TypedDict, total=False):
    """How merges are scored, and which are tried."""

    score: Annotated[
        str | None,
        Option(
            "What scores a merge: a command, in which {adapter} is the directory of the merged adapter "
            "and {split} is choose or report; or module:function in Python. The command prints a line "
            'of JSON, {"score": 0.5, "tasks": {"a": 0.4, "b": 0.6}}; larger is better.',
            metavar="CMD",
        ),
    ]
    score_texts: Annotated[
        str | PathLike[str],
        Option(
            "Instead of --score: a file of JSON lines with text and task. A merge's score is the mean "
            "log-likelihood a token that the causal language model of --base gives the texts with it.",
            default="",
            metavar="FILE",
        ),
    ]
    trials: Annotated[
        int,
        Option("How many merges to try.", default=DEFAULT_TRIALS, metavar="N", at_least=1),
    ]
    objective: Annotated[
        str,
        Option(
            "What to raise: the scorer's own score, the mean or the min of the tasks' scores, or their "
            "mean weighted by --task-weight.",
            default=SCORE,
            choices=OBJECTIVES,
        ),
    ]
    task_weights: Annotated[
        Mapping[str, float] | None,
        Option(
            "Weight of a task's score, for --objective weighted; 1 for those not named.",
            flag="--task-weight",
            metavar="TASK=W",
        ),
    ]
    space: Annotated[
        Sequence[str],
        Option(
            "Where to search: preset=adaptive,paper; scale=0.25..4, a factor on the output scale; "
            "spectrum=0..1; weights=0.25..4, of each adapter; rank=8,16. A single value fixes it. An "
            "option of the merge that is given, such as --preset, is not searched.",
            default=(),
            metavar="KEY=VALUES",
        ),
    ]
    study: Annotated[
        str | PathLike[str],
        Option(
            "Where finished trials are kept, so that the same command continues them.",
            default="",
            default_said="the output's URI with -study",
            metavar="URI",
        ),
    ]
    time_limit_per_trial: Annotated[
        float,
        Option(
            "Seconds that scoring one merge may take; after that the trial has failed.",
            default=DEFAULT_TIME_LIMIT,
            metavar="SECONDS",
            above=0,
        ),
    ]


class TuneOptions(SearchOptions, MergeOptions, total=False):
    """All that `tune` accepts, apart from places and a runner."""
