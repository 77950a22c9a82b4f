"""Our svd against PEFT's on the same factors, tiny: the figures are of the same merge."""

import pytest

from jobs.benchmarks.svd import compare


@pytest.mark.parametrize("thin", [False, True])
def test_both_merge_the_same_adapters(thin: bool) -> None:
    found = compare(40, 30, adapters=3, rank=4, runs=2, ours=2, thin=thin)
    assert found.difference < 1e-5
    assert found.errors[1] == pytest.approx(found.errors[0], rel=1e-6)
    assert 0 < found.errors[1] < 1
    assert min(*found.walls, *found.ratios) > 0
