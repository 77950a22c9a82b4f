"""The roofline's formulas, by hand, and its measurements, tiny."""

from pathlib import Path

from jobs.benchmarks.roofline import SiteWork, Speeds, matmul_speed, measure_speeds, roofline
from jobs.benchmarks.synthetic_zoo import build

SITE = SiteWork(n=10, d=100, k=3, steps=4)


def test_operations_of_both_routes() -> None:
    assert SITE.gram_flops(n_init=2) == 10 * 10 * 100 + 2 * 4 * 2 * 10 * 10 * 3
    assert SITE.lloyd_flops(n_init=2) == 2 * 4 * 2 * 10 * 3 * 100


def test_each_site_takes_its_cheaper_route() -> None:
    wide = SiteWork(n=10, d=100, k=3, steps=40)
    speeds = Speeds(read=50.0, float64=1000.0, float32=2000.0)
    assert SITE.lloyd_flops(1) / 2000 < SITE.gram_flops(1) / 1000
    assert wide.lloyd_flops(1) / 2000 > wide.gram_flops(1) / 1000
    floor = roofline([SITE, wide], n_bytes=100, speeds=speeds, n_init=1)
    assert floor.reading == 2.0
    assert floor.computing == SITE.lloyd_flops(1) / 2000 + wide.gram_flops(1) / 1000
    assert floor.by_gram == (SITE.gram_flops(1) + wide.gram_flops(1)) / 1000
    assert floor.seconds == max(floor.reading, floor.computing)


def test_the_speed_of_a_product() -> None:
    assert matmul_speed("float64", 8, 8, 8) > 0


def test_speeds_with_every_worker_busy(tmp_path: Path) -> None:
    build(tmp_path, adapters=2, layers=1, rank=2, hidden=64, intermediate=128)
    speeds = measure_speeds(tmp_path, SiteWork(n=4, d=128, k=2, steps=1), 2)
    assert min(speeds.read, speeds.float64, speeds.float32) > 0
