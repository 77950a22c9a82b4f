"""Scorers: what gives an adapter its score, opened once and asked many times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lego_ray.scoring.child import ChildScorer
from lego_ray.scoring.command import ALL_ROWS, SPLIT_VARIABLE, score_with_command, words_of
from lego_ray.scoring.score import Score

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Scorer(Protocol):
    """Scores adapters. It can be pickled until it is first asked."""

    def check(self) -> None:
        """Finds what is wrong with the scorer before an adapter is made for it.

        Raises:
            BadInput: If it cannot score anything.
        """

    def score(self, adapter_dir: str, split: str = ALL_ROWS) -> Score:
        """The score of an adapter.

        Args:
            adapter_dir: The adapter's directory.
            split: `choose`, `report` or `all`.

        Raises:
            ScoringFailed: If it gives none.
        """

    def close(self) -> None:
        """Ends what it started."""


@dataclass(frozen=True, slots=True)
class CommandScorer:
    """A command; see `score_with_command`.

    Attributes:
        command: The command.
        timeout_s: Seconds that it may take for an adapter.
    """

    command: str
    timeout_s: float

    def check(self) -> None:
        """Splits the command into words.

        Raises:
            InvalidOption: If it cannot be run as it is written.
        """
        words_of(self.command)

    def score(self, adapter_dir: str, split: str = ALL_ROWS) -> Score:
        """Runs the command on an adapter, as `Scorer.score` says."""
        environment = {SPLIT_VARIABLE: split}
        return score_with_command(
            self.command, adapter_dir, timeout_s=self.timeout_s, environment=environment
        )

    def close(self) -> None:
        """Holds nothing."""


def scorer_of(
    score: str, timeout_s: float, settings: Mapping[str, Any] | None = None
) -> CommandScorer | ChildScorer:
    """The scorer that a text stands for.

    Args:
        score: `module:function` for a Python function, or else a command.
        timeout_s: Seconds that it may take for an adapter.
        settings: What the function is called with besides.
    """
    if _FUNCTION.fullmatch(score):
        return ChildScorer(score, timeout_s, settings or {})
    return CommandScorer(score, timeout_s)
