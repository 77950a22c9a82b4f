"""What the GPU benchmark times beside a step of k-means: products, copies, and k-means by others."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jobs.benchmarks.kmeans_peers import Fit, fit_once
from jobs.benchmarks.step import steps, timed
from lego_ray.numerics.costs import sample_rows
from lego_ray.numerics.kmeans.rough import rough_halves
from lego_ray.numerics.kmeans.search import search

# Turns of copies and steps, one after the other and at once.
TURNS = 4


def search_times(points: Tensor, k: int, n_init: int) -> dict[str, float]:
    """Times the search for a start: its products on the device, and what follows on the CPU.

    Args:
        points: Shape (n, d), float32, on the device.
        k: Clusters.
        n_init: Starts.

    Returns:
        `products` and `rest`, in seconds; `flops` of the products, a second, and `mm_flops` of torch's
        float32 product of the same rows, not only half of it.
    """
    sample = points[: sample_rows(len(points), k)]
    m, d = sample.shape
    device = points.device.type
    products = timed(lambda: rough_halves(sample, d // 2), device)
    plain = timed(lambda: sample @ sample.T, device)
    known = rough_halves(sample, d // 2).products()
    started = time.perf_counter()
    search(known, k, n_init, torch.Generator().manual_seed(0), 300, 1e-4)
    return {
        "products": products,
        "rest": time.perf_counter() - started,
        "flops": m * m * d / products,
        "mm_flops": 2 * m * m * d / plain,
    }


def copy_times(points: Tensor, k: int) -> dict[str, float]:
    """Times copies of a pool to the device, and whether they overlap with steps on another pool.

    A merge copies from pageable memory before it computes. Pinned memory is what a copy needs to run
    beside the work.

    Args:
        points: The other pool, shape (n, d), float32, on the device.
        k: Number of centroids of a step.

    Returns:
        Bytes a second of copies from `pageable` and from `pinned` memory; seconds of `TURNS` pinned
        copies and steps one `after` another and `at_once`; and, on a GPU, the share of the shorter of
        the two that was `hidden` behind the longer.
    """
    device = points.device.type
    host = points.cpu().clone()
    target = torch.empty_like(points)
    pageable = timed(lambda: target.copy_(host), device)
    if device == "cuda":
        host = host.pin_memory()
    step = steps(points, k)["lego-ray, none moved"]

    def copy() -> None:
        target.copy_(host, non_blocking=True)

    def in_turn() -> None:
        for _ in range(TURNS):
            copy()
            _wait(device)
            step()

    def at_once() -> None:
        for _ in range(TURNS):
            with _beside(device):
                copy()
            step()

    pinned = timed(copy, device)
    after, both = timed(in_turn, device), timed(at_once, device)
    n_bytes = points.numel() * points.element_size()
    found = {
        "pageable": n_bytes / pageable,
        "pinned": n_bytes / pinned,
        "after": after,
        "at_once": both,
    }
    if device == "cuda":
        found["hidden"] = (after - both) / (TURNS * min(pinned, timed(step, device)))
    return found


def fit_times(points: Tensor, k: int, n_init: int, fit: Fit, seeds: int) -> dict[str, float]:
    """Times k-means by one of `fits`.

    Args:
        points: Shape (n, d), float32, on the device.
        k: Clusters.
        n_init: Starts.
        fit: Clusters them.
        seeds: How often, each time with another seed; one more before them does not count if there are
            several.

    Returns:
        `seconds`, the median, and `inertia` of the best start, the mean.
    """
    once = partial(fit_once, points, k, n_init, fit)
    if seeds > 1:
        once(0)
    seconds, inertias = zip(*(once(seed) for seed in range(seeds)), strict=True)
    return {"seconds": statistics.median(seconds), "inertia": statistics.fmean(inertias)}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def _beside(device: str) -> Iterator[None]:
    """A stream beside that of the work; on a CPU there is none, and the copy comes first."""
    if device != "cuda":
        yield
        return
    stream: Any = torch.cuda.Stream
    with torch.cuda.stream(stream()):
        yield
