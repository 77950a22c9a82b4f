"""LoRA-LEGO at one site, in float64 and plain loops, for the fast code to be held against.

Written from the paper's equations and the laws of the design, not from the package: no torch except for
the random draws, which must be the same, and no vectorised step that could share a mistake.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

Row = list[float]


@dataclass(frozen=True)
class ReferenceMerge:
    """What the reference makes of a site; rows and members are in the pool's canonical order."""

    rows: np.ndarray
    labels: list[int]
    inertia: float
    update: np.ndarray


def pool(adapters: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> list[tuple[Row, Row]]:
    """MSUs (a, b) of adapters (A, B, scaling), longest first."""
    msus = []
    for a, b, scaling in adapters:
        root = math.sqrt(scaling)
        for i in range(a.shape[0]):
            half_a = [float(np.float32(np.float32(root) * np.float32(x))) for x in a[i]]
            half_b = [float(np.float32(np.float32(root) * np.float32(x))) for x in b[:, i]]
            msus.append((half_a, half_b))
    return sorted(msus, key=lambda m: -sum(x * x for x in m[0] + m[1]))


def dot(x: Sequence[float], y: Sequence[float]) -> float:
    total = 0.0
    for u, v in zip(x, y, strict=True):
        total += u * v
    return total


def squared_distance(x: Sequence[float], y: Sequence[float]) -> float:
    total = 0.0
    for u, v in zip(x, y, strict=True):
        total += (u - v) ** 2
    return total


def normalized(half: Row) -> Row:
    """The half at length 1, as the float32 numbers that points are."""
    inverse = np.float32(1 / math.sqrt(dot(half, half)))
    return [float(np.float32(np.float32(x) * inverse)) for x in half]


def mean(rows: Sequence[Sequence[float]]) -> Row:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def seeds(points: Sequence[Row], k: int, n_init: int, seed: int) -> list[list[int]]:
    """Greedy k-means++ by exponential races, one list of row numbers a restart."""
    generator = torch.Generator().manual_seed(seed)
    n = len(points)

    def clocks() -> list[list[float]]:
        draws = torch.rand(n_init, n, dtype=torch.float64, generator=generator).tolist()
        return [[-math.log1p(-u) for u in row] for row in draws]

    chosen = [[min(range(n), key=lambda i: clock[i])] for clock in clocks()]
    for _ in range(1, k):
        for picks, clock in zip(chosen, clocks(), strict=True):
            nearest = [min(squared_distance(p, points[c]) for c in picks) for p in points]
            times = [e / d if d > 0 else math.inf for e, d in zip(clock, nearest, strict=True)]
            order = sorted(range(n), key=lambda i: times[i])[: min(n, 2 + int(math.log(k)))]
            potentials = [
                sum(
                    min(d, squared_distance(p, points[c]))
                    for d, p in zip(nearest, points, strict=True)
                )
                for c in order
            ]
            picks.append(order[potentials.index(min(potentials))])
    return chosen


def lloyd(points: Sequence[Row], start: Sequence[int], max_iter: int) -> tuple[list[int], float]:
    """Lloyd's steps until no label changes."""
    centroids = [list(points[c]) for c in start]

    def nearest(point: Row) -> int:
        distances = [squared_distance(point, c) for c in centroids]
        return distances.index(min(distances))

    labels = [nearest(p) for p in points]
    for _ in range(max_iter):
        for c in range(len(centroids)):
            centroids[c] = mean([p for p, label in zip(points, labels, strict=True) if label == c])
        moved = [nearest(p) for p in points]
        if moved == labels:
            break
        labels = moved
    inertia = sum(squared_distance(p, centroids[c]) for p, c in zip(points, labels, strict=True))
    return labels, inertia


def spread_about_means(points: Sequence[Row], labels: Sequence[int], k: int) -> float:
    """The inertia of a partition, infinite if a cluster is empty."""
    heaps = [[p for p, label in zip(points, labels, strict=True) if label == c] for c in range(k)]
    if not all(heaps):
        return math.inf
    return sum(squared_distance(p, center) for h in heaps for center in [mean(h)] for p in h)


def gains(points: Sequence[Row], labels: Sequence[int], k: int) -> list[tuple[float, int, int]]:
    """What each row gains by moving alone to its best other cluster: the gain, the row, the cluster."""
    sizes = [list(labels).count(c) for c in range(k)]
    centers = [
        mean([p for p, label in zip(points, labels, strict=True) if label == c]) for c in range(k)
    ]
    found = []
    for row, (point, own) in enumerate(zip(points, labels, strict=True)):
        size = sizes[own]
        left = squared_distance(point, centers[own]) * size / (size - 1) if size > 1 else 0.0
        joined = [
            (squared_distance(point, centers[c]) * sizes[c] / (sizes[c] + 1), c)
            for c in range(k)
            if c != own
        ]
        if joined:
            cost, to = min(joined)
            found.append((left - cost, row, to))
    return found


def exchange(points: Sequence[Row], labels: list[int], k: int, rounds: int) -> list[int]:
    """Moves rows, the largest gain first, as many at once as lowers the inertia."""
    share = 1.0
    least = 1e-12 * sum(dot(p, p) for p in points) / len(points)
    for _ in range(rounds):
        movers = sorted((m for m in gains(points, labels, k) if m[0] > least), key=lambda m: -m[0])
        if not movers:
            break
        before, count = spread_about_means(points, labels, k), max(1, int(share * len(movers)))
        while True:
            moved = list(labels)
            for _, row, to in movers[:count]:
                moved[row] = to
            if spread_about_means(points, moved, k) < before:
                break
            if count == 1:
                return labels
            count = max(1, count // 4)
            share = count / len(movers)
        labels, share = moved, min(1.0, 1.5 * share)
    return labels


def merge(
    adapters: Sequence[tuple[np.ndarray, np.ndarray, float]],
    k: int,
    *,
    seed: int = 0,
    n_init: int = 3,
    normalize: bool = False,
    parameter_reweight: str = "inf",
    output_reweight: str | float = "source-rank",
) -> ReferenceMerge:
    """Merges adapters (A (r, d_in), B (d_out, r), scaling) to rank k."""
    msus = pool(adapters)
    members = [a + b for a, b in msus]
    points = members
    if normalize:
        points = [normalized(a) + normalized(b) for a, b in msus]
    if k >= len(members):
        labels, inertia = list(range(len(members))), 0.0
    else:
        runs = [lloyd(points, start, 100) for start in seeds(points, k, n_init, seed)]
        labels, _ = min(runs, key=lambda run: run[1])
        labels = exchange(points, labels, k, 100)
        inertia = spread_about_means(points, labels, k)
    order = sorted(set(labels), key=labels.index)  # clusters by their first member
    labels = [order.index(c) for c in labels]
    rows = []
    for c in range(len(order)):
        mine = [m for m, label in zip(members, labels, strict=True) if label == c]
        centroid = mean(mine)
        if parameter_reweight != "none":

            def norm(row: Row) -> float:
                if parameter_reweight == "inf":
                    return max(abs(x) for x in row)
                return math.sqrt(dot(row, row))

            factor = sum(norm(m) for m in mine) / len(mine) / norm(centroid)
            centroid = [factor * x for x in centroid]
        rows.append(centroid)
    mean_rank = len(members) / len(adapters)
    scale = {
        "source-rank": math.sqrt(mean_rank / len(rows)),
        "pool": math.sqrt(len(members) / len(rows)),
        "none": 1.0,
    }.get(str(output_reweight))
    if scale is None:
        scale = float(output_reweight)
    merged = np.array(rows) * math.sqrt(scale)
    d_in = len(msus[0][0])
    update = np.zeros((len(msus[0][1]), d_in))
    for row in merged:
        update += np.outer(row[d_in:], row[:d_in])
    return ReferenceMerge(merged, labels, inertia, update)
