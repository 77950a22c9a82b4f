"""Adapters as points in a plane, near where their updates are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plane:
    """Points in a plane.

    Attributes:
        points: Shape (T, 2), float64, centered.
        share: Of the squared distances between all points, what the plane holds; 0 to 1.
    """

    points: Matrix
    share: float


def plane(cosines: Matrix) -> Plane:
    """Lays adapters out in the plane that holds most of their squared distances.

    Classical scaling (Torgerson 1952) of the distances `sqrt(2 - 2 cos)` between updates of length one:
    the first two principal axes. Each axis points to where its longest coordinate is positive, the
    first of equals, so the same cosines have the same plane.

    Args:
        cosines: Shape (T, T), float64, symmetric, 1 on the diagonal.
    """
    from scipy.linalg import eigh

    n = len(cosines)
    points = np.zeros((n, 2))
    means = cosines.mean(axis=0)
    inner = cosines - means - means[:, None] + means.mean()
    total = float(np.trace(inner))
    if n < 2 or total <= n * np.finfo(np.float64).eps:  # all alike
        return Plane(points, 1.0)
    values, vectors = eigh(inner, subset_by_index=[n - 2, n - 1])
    for axis, (value, vector) in enumerate(zip(values[::-1], vectors.T[::-1], strict=True)):
        longest = int(np.argmax(np.abs(vector).round(9)))
        points[:, axis] = vector * np.sqrt(max(value, 0.0)) * np.sign(vector[longest])
    return Plane(points, min(1.0, float(np.square(points).sum()) / total))
