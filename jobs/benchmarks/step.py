"""One step of k-means in MSU space against the memory it must pass over, on a CPU or a GPU.

`python -m jobs.benchmarks.step [--gpus 1]` times a step (assign every point, move the sums) as a
shard makes it, and prints the share of the device's memory bandwidth at which it reads the points,
and its wall beside that of the plainest torch (float32 product, argmin, index_add, no step taken
twice over in float64) and, where it is installed, of faiss, on the same points and device.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lego_ray.numerics.kmeans.partial_sums import column_quanta
from lego_ray.numerics.msu import lengths
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard
from lego_ray.tasks.device import device_of

ROUNDS = 5
COPY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class StepTime:
    """What a step took.

    Attributes:
        k: Number of centroids.
        step: Which step.
        seconds: Median wall time of some rounds.
        share: Of the memory bandwidth: bytes of the points in that time, over bytes that are read and
            written by a copy.
    """

    k: int
    step: str
    seconds: float
    share: float


def main() -> None:
    """Times the step and its peers, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--ranks", type=int, nargs="+", default=(16, 64))
    parser.add_argument("--gpus", type=float, default=0.0)
    given = parser.parse_args()
    device = device_of(given.gpus)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(given.rows, given.width, generator=generator).to(device)
    n_bytes = points.numel() * points.element_size()
    speed = bandwidth(device)
    print(
        f"{given.rows} points of {given.width}, {n_bytes / 1e6:.0f} MB, on {name_of(device)}; memory "
        f"copies at {speed / 1e9:.0f} GB/s, reads and writes counted"
    )
    print(f"{'k':>4}{'step':>22}{'ms':>10}{'GB/s':>9}{'share':>8}")
    rows = []
    for k in given.ranks:
        for name, step in steps(points, k).items():
            row = step_time(points, k, name, step, speed)
            rows.append(asdict(row))
            print(
                f"{k:4}{name:>22}{row.seconds * 1e3:10.1f}{n_bytes / row.seconds / 1e9:9.1f}"
                f"{row.share:8.2f}",
                flush=True,
            )
    print(json.dumps({"device": name_of(device), "bandwidth": speed, "rows": rows}))


def step_time(points: Tensor, k: int, name: str, step: Callable[[], Any], speed: float) -> StepTime:
    """Times one of `steps`.

    Args:
        points: What it reads, shape (n, d), float32.
        k: Number of centroids.
        name: Its name.
        step: Does it.
        speed: The device's `bandwidth`.
    """
    seconds = timed(step, points.device.type)
    n_bytes = points.numel() * points.element_size()
    return StepTime(k, name, seconds, n_bytes / seconds / speed)


def steps(points: Tensor, k: int) -> dict[str, Callable[[], Any]]:
    """What is timed, each from the same centroids.

    Args:
        points: Shape (n, d), float32, on the device.
        k: Number of centroids.
    """
    n = len(points)
    where = torch.arange(n)
    shard = Shard.of(Pool(points, points.shape[1] // 2, where, where, lengths(points)))
    quanta = column_quanta(points).cpu()
    centroids = points[:k].double().cpu()
    before = torch.full((1, n), -1, dtype=torch.int32)
    settled, _ = work.step(shard, before, centroids[None], quanta)
    narrow = points[:k].clone()
    steps: dict[str, Callable[[], Any]] = {
        "lego-ray, first": lambda: work.step(shard, before, centroids[None], quanta),
        "lego-ray, none moved": lambda: work.step(shard, settled, centroids[None], quanta),
        "torch float32": lambda: _plain_step(points, narrow),
    }
    faiss = _faiss()
    if faiss and (not points.is_cuda or hasattr(faiss, "StandardGpuResources")):
        steps["faiss assign"] = lambda: _faiss_step(faiss, points, narrow)
    return steps


def _plain_step(points: Tensor, centroids: Tensor) -> Tensor:
    scores = centroids.square().sum(dim=1) - 2 * (points @ centroids.T)
    labels = scores.argmin(dim=1)
    sums = torch.zeros_like(centroids).index_add_(0, labels, points)
    return sums / torch.bincount(labels, minlength=len(centroids)).clamp(min=1)[:, None]


def _faiss_step(faiss: Any, points: Tensor, centroids: Tensor) -> Any:
    if points.is_cuda:
        return faiss.knn_gpu(faiss.StandardGpuResources(), points, centroids, 1)
    return faiss.knn(points.numpy(), centroids.numpy(), 1)


def _faiss() -> Any:
    try:
        module = importlib.import_module("faiss")
        module.omp_set_num_threads(1)
        importlib.import_module("faiss.contrib.torch_utils")
    except ImportError:
        return None
    return module


def bandwidth(device: str, n_bytes: int = COPY_BYTES) -> float:
    """Bytes that a device's memory reads and writes in a second of copying.

    Args:
        device: `cpu` or `cuda`.
        n_bytes: Size of the copy.
    """
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / timed(lambda: target.copy_(source), device)


def timed(step: Callable[[], Any], device: str) -> float:
    """Seconds that something takes, the median of some rounds after one that does not count.

    Args:
        step: Does it; what it leaves running on the device is waited for.
        device: `cpu` or `cuda`.
    """
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def name_of(device: str) -> str:
    """The device in words."""
    return torch.cuda.get_device_name() if device == "cuda" else "one core of the CPU"


if __name__ == "__main__":
    main()
