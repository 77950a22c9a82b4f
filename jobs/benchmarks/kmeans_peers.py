"""k-means by lego-ray and by its peers on the same points, for the benchmarks.

Each gets all points, the same number of starts and at most `STEPS` steps a start, and stops earlier by
its own rule. A peer that is not installed is left out, with the reason.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lego_ray.methods.names import METHODS
from lego_ray.numerics.kmeans.lloyd import cluster, in_one_shard
from lego_ray.numerics.kmeans.partial_sums import column_quanta, partial_sums
from lego_ray.numerics.msu import lengths, squared_norms
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard

STEPS = 50
# Clusters points, shape (n, d), float32, into k, from some starts, with a seed. Returns the labels of
# each start that the peer does not choose among by itself, each of shape (n,).
Fit = Callable[[Tensor, int, int, int], list[Tensor]]


def fits(device: str) -> tuple[dict[str, Fit], dict[str, str]]:
    """Who can cluster here.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        How each does it, lego-ray first, and for each that is left out the reason.
    """
    found: dict[str, Fit] = {"lego-ray": ours}
    left_out = {}
    makers = {
        "scikit-learn": _scikit_learn,
        "faiss": _faiss,
        "fastkmeans": _fastkmeans,
        "flash-kmeans": _flash_kmeans,
    }
    for name, make in makers.items():
        try:
            found[name] = make(device)
        except (ImportError, _LeftOut) as error:
            left_out[name] = "not installed" if isinstance(error, ImportError) else str(error)
    return found, left_out


def inertia_of(points: Tensor, labels: Tensor) -> float:
    """Sum of squared distances to the means of the clusters, summed exactly.

    Args:
        points: Shape (n, d), float32.
        labels: Shape (n,); a cluster may be empty.
    """
    _, numbered = torch.unique(labels.to(points.device), return_inverse=True)
    sums = partial_sums(points, numbered, int(numbered.max()) + 1, column_quanta(points))
    return math.fsum(squared_norms(points).tolist()) - sums.explained()


def fit_once(points: Tensor, k: int, n_init: int, fit: Fit, seed: int) -> tuple[float, float]:
    """Clusters points once.

    Args:
        points: Shape (n, d), float32.
        k: Clusters.
        n_init: Starts.
        fit: By whom.
        seed: Fixes its draws.

    Returns:
        Seconds, and the inertia of the best start, whose computation does not count.
    """
    started = time.perf_counter()
    found = fit(points, k, n_init, seed)
    if points.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return seconds, min(inertia_of(points, labels) for labels in found)


def ours(points: Tensor, k: int, n_init: int, seed: int) -> list[Tensor]:
    """The clusters of a merge by `lego`, without what a merge makes of them; see `Fit`."""
    n = len(points)
    where = torch.arange(n)
    pool = in_one_shard(Shard.of(Pool(points, points.shape[1] // 2, where, where, lengths(points))))
    generator = torch.Generator().manual_seed(seed)
    options = METHODS["lego"].options
    found, *_ = cluster(pool, k, n_init, generator, options["max_iter"], options["tol"])
    in_pool = torch.empty_like(found.labels)
    in_pool[pool.adapters] = found.labels  # the pool is in canonical order
    return [in_pool]


class _LeftOut(Exception):
    """A peer that cannot run here; with the reason."""


def _scikit_learn(device: str) -> Fit:
    if device != "cpu":
        raise _LeftOut("it has no route for a GPU")
    cluster = importlib.import_module("sklearn.cluster")
    limits = importlib.import_module("threadpoolctl").threadpool_limits

    def fit(points: Tensor, k: int, n_init: int, seed: int) -> list[Tensor]:
        with limits(torch.get_num_threads()):
            found = cluster.KMeans(k, n_init=n_init, max_iter=STEPS, random_state=seed)
            return [torch.from_numpy(found.fit(points.numpy()).labels_).long()]

    return fit


def _faiss(device: str) -> Fit:
    faiss = importlib.import_module("faiss")
    on_gpu = device == "cuda"
    if on_gpu and not (hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus()):
        raise _LeftOut("the faiss that is installed has no GPU")

    def fit(points: Tensor, k: int, n_init: int, seed: int) -> list[Tensor]:
        faiss.omp_set_num_threads(torch.get_num_threads())
        values = points.cpu().numpy()
        found = faiss.Kmeans(
            points.shape[1],
            k,
            niter=STEPS,
            nredo=n_init,
            seed=seed + 1,
            gpu=on_gpu,
            max_points_per_centroid=len(points),
            min_points_per_centroid=1,
        )
        found.train(values)
        return [torch.from_numpy(found.index.search(values, 1)[1][:, 0]).long()]

    return fit


def _fastkmeans(device: str) -> Fit:
    module = importlib.import_module("fastkmeans")

    def fit(points: Tensor, k: int, n_init: int, seed: int) -> list[Tensor]:
        values = points.cpu().numpy()
        found = []
        for start in range(n_init):
            one = module.FastKMeans(
                points.shape[1],
                k,
                niter=STEPS,
                gpu=device == "cuda",
                seed=n_init * seed + start,
                max_points_per_centroid=len(points),
            )
            one.train(values)
            found.append(torch.from_numpy(one.predict(values)).long())
        return found

    return fit


def _flash_kmeans(device: str) -> Fit:
    if device != "cuda":
        raise _LeftOut("its kernels need a GPU")
    flash: Any = importlib.import_module("flash_kmeans").batch_kmeans_Euclid

    def fit(points: Tensor, k: int, n_init: int, seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [
            flash(points[None], n_clusters=k, max_iters=STEPS, tol=1e-4)[0][0].long()
            for _ in range(n_init)
        ]

    return fit
