"""The exponent of growth."""

import pytest

from jobs.benchmarks.scale import slope


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_the_exponent_of_a_power_law(power: float) -> None:
    sizes = [64, 256, 1024]
    assert slope(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)
