"""A generated matrix of PEFT's adapters: model, type, alpha and rank, loaded by PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.output.peft_matrix import KINDS, draw, merged
from tests.zoo import relative_error

# Float32 products of float32 factors, each rounded once more on the way in.
ROUNDING = 16 * 2.0**-24
CASES = [(kind, seed) for seed, kind in enumerate(2 * list(KINDS))]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_a_merge_is_the_sum_of_its_sources(kind: str, seed: int, tmp_path: Path) -> None:
    case = draw(seed, tmp_path, kind)
    for method in ("concat", "svd"):
        got, record = merged(case, tmp_path / method, method)
        assert not record.refused
        assert relative_error(got, case.wanted) < ROUNDING, (method, case.said)
        assert all(np.any(update) for update in got.values())
