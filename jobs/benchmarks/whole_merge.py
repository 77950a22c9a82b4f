"""`lego-ray merge` as a process of its own, measured."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmarks.measure import Measured, measure


@dataclass(frozen=True, slots=True)
class WholeMerge:
    """A finished merge.

    Attributes:
        measured: Its process, start-up included.
        record: What `--json` printed.
    """

    measured: Measured
    record: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Wall time of the process."""
        return self.measured.seconds


def whole_merge(source: str | Path, output: str | Path, **flags: object) -> WholeMerge:
    """Merges a zoo by the command line.

    Args:
        source: The zoo.
        output: Where the merged adapter goes.
        **flags: Flags of `lego-ray merge` that take a value, by name.

    Raises:
        RuntimeError: If it fails.
    """
    given = [word for name, v in flags.items() for word in (f"--{name.replace('_', '-')}", str(v))]
    command = [sys.executable, "-m", "lego_ray", "merge", str(source), "--output", str(output)]
    measured = measure([*command, *given, "--json"])
    return WholeMerge(measured, json.loads(measured.stdout))
