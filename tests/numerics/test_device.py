"""The arithmetic on a GPU where there is one; the same functions on the CPU where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lego_ray.errors import RunFailed
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.lego import Lego
from lego_ray.methods.names import METHODS
from lego_ray.methods.registry import method_of
from lego_ray.numerics.kmeans.partial_sums import column_quanta
from lego_ray.numerics.msu import lengths
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool
from lego_ray.tasks.device import device_of
from tests.numerics.factors import update

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]
OPTIONS: list[dict[str, object]] = [
    {},
    {"normalize": True},
    {"basis": "svd", "align_signs": True},
    {"distance": "rank-one"},
]


def pool(n: int = 700, d: int = 96) -> Pool:
    """Loose heaps, so that no row is nearly as near to a second centroid."""
    generator = torch.Generator().manual_seed(3)
    heaps = 3 * torch.randn(12, d, generator=generator)
    where = torch.randint(12, (n,), generator=generator)
    rows = heaps[where] + 0.3 * torch.randn(n, d, generator=generator)
    return Pool(rows, d // 2, torch.arange(n) // 7, torch.arange(n) % 7, lengths(rows))


def solve(device: str, route: str, **options: object) -> SiteSolution:
    method = Lego(n_init=4, **options)  # type: ignore[arg-type]
    whole = pool().to(device)
    generator = torch.Generator().manual_seed(5)
    if route != "spread":
        return method.solve(whole, 12, generator, route)
    halves = []
    for start, end in ((0, 300), (300, 700)):
        part = Pool(
            whole.rows[start:end],
            whole.d_in,
            whole.adapters[start:end],
            whole.ranks[start:end],
            whole.lengths[start:end],
        )
        halves.append(method.shard(part))
    return method.solve_spread(SpreadPool(LocalShards(halves)), 12, generator)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("route", ["gram", "msu", "spread"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_device_gives_the_labels_of_the_cpu_and_its_centroids_to_rounding(
    device: str, route: str, options: dict[str, object]
) -> None:
    if options.get("distance") == "rank-one" and route != "gram":
        pytest.skip("distances between updates are known by products alone")
    wanted, found = solve("cpu", "gram", **options), solve(device, route, **options)
    for tensor in (found.rows, found.labels, found.distances, found.weights, found.adapters):
        assert tensor is not None
        assert tensor.device.type == "cpu"
    assert found.labels is not None
    assert wanted.labels is not None
    assert torch.equal(found.labels, wanted.labels)
    # A few float32 roundings; the top singular triplet takes a few more.
    assert torch.allclose(found.rows, wanted.rows, rtol=2.0**-20, atol=2.0**-20)
    assert found.inertia == pytest.approx(wanted.inertia, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "lego"])
def test_every_other_method_gives_the_rows_of_the_cpu_to_rounding(name: str, device: str) -> None:
    method = method_of(name, {})
    wanted, found = (
        method.solve(pool().to(where), 700, torch.Generator().manual_seed(5))
        for where in ("cpu", device)
    )
    assert found.rows.device.type == "cpu"
    d_in = pool().d_in
    gap = update(found.rows, d_in) - update(wanted.rows, d_in)
    assert np.linalg.norm(gap) <= 2.0**-16 * np.linalg.norm(update(wanted.rows, d_in))
    if name != "concat":
        assert torch.allclose(shares_of(found), shares_of(wanted), atol=2.0**-10)


def shares_of(solution: SiteSolution) -> torch.Tensor:
    """The sum of all shares of each adapter."""
    lineage = solution.lineage
    assert lineage is not None
    out = torch.zeros(int(solution.adapters.max()) + 1, dtype=torch.float64)
    out.index_add_(0, solution.adapters[lineage.at], lineage.shares)
    return out.index_add_(0, lineage.adapters, lineage.rest)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_takes_from_the_cpu_and_gives_to_it(device: str) -> None:
    whole = pool()
    shard = Shard.of(whole.to(device))
    centroids = whole.rows[:5].double()[None]
    before = torch.full((1, whole.n), -1, dtype=torch.int32)
    labels, [change] = work.step(shard, before, centroids, column_quanta(whole.rows))
    near = torch.cdist(whole.rows.double(), centroids[0]).argmin(dim=1)
    assert torch.equal(labels[0].long(), near)
    assert change.sums.device.type == "cpu"
    for c in range(5):
        assert torch.allclose(change.sums[c], whole.rows[near == c].double().sum(dim=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tf32_is_off_on_a_gpu() -> None:
    assert device_of(0.5) == "cuda"
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_said_so() -> None:
    assert device_of(0.0) == "cpu"
    with pytest.raises(RunFailed, match=r"--gpus 1: this worker's torch .* finds no CUDA device"):
        device_of(1.0)
