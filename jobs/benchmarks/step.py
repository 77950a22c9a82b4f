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
    bandwidth = _bandwidth(device)
    print(
        f"{given.rows} points of {given.width}, {n_bytes / 1e6:.0f} MB, on {_name(device)}; memory "
        f"copies at {bandwidth / 1e9:.0f} GB/s, reads and writes counted"
    )
    print(f"{'k':>4}{'step':>22}{'ms':>10}{'GB/s':>9}{'share':>8}")
    rows = []
    for k in given.ranks:
        for name, step in _steps(points, k).items():
            seconds = _timed(step, device)
            rate = n_bytes / seconds
            rows.append({"k": k, "step": name, "seconds": seconds, "share": rate / bandwidth})
            print(
                f"{k:4}{name:>22}{seconds * 1e3:10.1f}{rate / 1e9:9.1f}{rate / bandwidth:8.2f}",
                flush=True,
            )
    print(json.dumps({"device": _name(device), "bandwidth": bandwidth, "rows": rows}))


def _steps(points: Tensor, k: int) -> dict[str, Callable[[], Any]]:
    """What is timed, each from the same centroids."""
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
    if faiss := _faiss():
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


def _bandwidth(device: str) -> float:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _timed(lambda: target.copy_(source), device)


def _timed(step: Callable[[], Any], device: str) -> float:
    step()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "one core of the CPU"


if __name__ == "__main__":
    main()
