"""Scores of adapters by what the user runs: a command, or a Python function.

A score is a number, larger is better, and one per task where there are tasks.
"""

from lego_ray.scoring.command import score_with_command
from lego_ray.scoring.score import Score

__all__ = ["Score", "score_with_command"]
