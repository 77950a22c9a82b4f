"""Any number of cases of the matrix of image LoRAs, each merged and loaded by diffusers.

`python -m jobs.fuzzing.matrix [--seconds N] [--start SEED] [--kind NAME]` draws a zoo for each seed:
an architecture, adapters in several layouts, element types, forms of alpha and ranks, and what is
asked for. Prints each case whose merge is not the sum of its sources, or that fails, and how many
there were. Exits with 1 if there are any. tests/output/test_image_matrix.py runs the first ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from tests.image_zoo import Updates
from tests.output.image_matrix import KINDS, Case, draw, merged
from tests.zoo import relative_error

# Float32 products of float32 factors, each rounded once more on the way in.
ROUNDING = 16 * 2.0**-24
METHODS = ("concat", "svd")


def main() -> int:
    """Runs cases until the time is over; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), default="")
    given = parser.parse_args()
    end, seed, found = time.monotonic() + given.seconds, given.start, 0
    while time.monotonic() < end:
        if why := fault_of(seed, given.kind):
            found += 1
            print(why, flush=True)
        seed += 1
    print(f"{seed - given.start} cases, {found} findings", flush=True)
    return 1 if found else 0


def difference_of(got: Updates, case: Case, method: str) -> str:
    """How a merge differs from the sum of its sources, in words; empty if it does not.

    Args:
        got: Its updates.
        case: The case.
        method: What it was merged by.
    """
    got = {name: u for name, u in got.items() if name in case.wanted or np.any(u)}
    if got.keys() != case.wanted.keys():
        return f"{method}: modules differ: {sorted(got.keys() ^ case.wanted.keys())[:4]}"
    error = relative_error(got, case.wanted)
    return "" if error < ROUNDING else f"{method}: a relative error of {error:.3g}"


def fault_of(seed: int, kind: str = "") -> str:
    """What is wrong with a case, in words; empty if nothing is.

    Args:
        seed: Of the case.
        kind: Name of the model; drawn if empty.
    """
    case: Case | None = None
    why = ""
    try:
        case = draw(seed, kind)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for method in METHODS:
                got, _ = merged(case, Path(folder), method)
                why = why or difference_of(got, case, method)
    except Exception as error:  # whatever it is, it is a finding
        why = f"{type(error).__name__}: {str(error)[:600]}"
    if not why:
        return ""
    lines = [f"seed {seed}: {why}"]
    if case is not None:
        lines += [f"  {case.kind} in {case.place} -> {case.layout}, compact: {case.compact}"]
        lines += [f"  {each}" for each in case.said]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
