"""The roofline's formulas, by hand, and its measurements, tiny."""

from pathlib import Path

from jobs.benchmarks.roofline import SiteWork, Speeds, matmul_speed, measure_speeds, roofline
from jobs.benchmarks.synthetic_zoo import build

SITE = SiteWork(n=10, d=100, k=3)


def test_operations_of_a_site() -> None:
    assert SITE.search_flops() == 10 * 10 * 100
    assert SITE.finish_flops() == 2 * 10 * 3 * 100
    assert SiteWork(n=100_000, d=100, k=3).search_flops() == 2048 * 2048 * 100


def test_the_floor_is_the_larger_of_reading_and_computing() -> None:
    speeds = Speeds(read=50.0, search=1000.0, finish=2000.0)
    floor = roofline([SITE, SITE], n_bytes=100, speeds=speeds)
    assert floor.reading == 2.0
    assert floor.computing == 2 * (10_000 / 1000 + 6_000 / 2000)
    assert floor.seconds == floor.computing


def test_the_speed_of_a_product() -> None:
    assert matmul_speed("float64", 8, 8, 8) > 0


def test_speeds_with_every_worker_busy(tmp_path: Path) -> None:
    build(tmp_path, adapters=2, layers=1, rank=2, hidden=64, intermediate=128)
    speeds = measure_speeds(tmp_path, SiteWork(n=4, d=128, k=2), 2)
    assert min(speeds.read, speeds.search, speeds.finish) > 0
