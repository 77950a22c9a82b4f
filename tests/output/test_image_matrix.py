"""A generated matrix of image LoRAs: layout, architecture, type, alpha and rank, loaded by diffusers.

`python -m jobs.fuzzing.matrix` runs any number of its cases.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.output.image_matrix import KINDS, draw, merged
from tests.output.test_diffusers_loads import F32_ROUNDING, nothing_is_left_out
from tests.zoo import relative_error

__all__ = ["nothing_is_left_out"]
# Two of each model, as fits into a minute; each merged by both methods.
CASES = [(kind, seed) for seed, kind in enumerate(2 * list(KINDS))]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_a_merge_is_the_sum_of_its_sources(kind: str, seed: int, tmp_path: Path) -> None:
    case = draw(seed, kind)
    for method in ("concat", "svd"):
        got, record = merged(case, tmp_path, method)
        assert not record.refused
        zero = {name for name, update in got.items() if not np.any(update)}
        got = {n: update for n, update in got.items() if n not in zero - case.wanted.keys()}
        assert relative_error(got, case.wanted) < F32_ROUNDING, method
