"""Groups of adapters whose updates are alike: average linkage, cut where the silhouette is highest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Adapters that no cut sets apart from the rest by this much are one group. Silhouettes of adapters
# without families, whose cosines differ by chance alone, stay below it.
LEAST_SILHOUETTE = 0.05
# Most groups that `auto` looks at.
MOST_GROUPS = 128

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """A partition of adapters.

    Attributes:
        labels: Group of each adapter, shape (T,), int64; the largest group is 0, of equals the one
            with the earliest adapter first.
        similarity: Mean cosine of each adapter to the others of its group, shape (T,); 1 if alone.
        silhouette: Of the partition; None with one group, or none larger than one adapter.
    """

    labels: Labels
    similarity: Matrix
    silhouette: float | None


def group(cosines: Matrix, count: int | None = None, alone_below: float | None = None) -> Groups:
    """Groups adapters by the cosines of their updates.

    Groups are joined by average linkage, the mean of `1 - cosine` over all pairs across (UPGMA; Sokal
    and Michener 1958). Without a count, the tree is cut where the mean silhouette (Rousseeuw 1987) is
    highest, of equals into the fewest groups; adapters that no cut sets apart by `LEAST_SILHOUETTE`
    are one group.

    Args:
        cosines: Shape (T, T), symmetric, 1 on the diagonal.
        count: How many groups; None to choose. At most T come out.
        alone_below: An adapter whose mean cosine to the others of its group is lower leaves it, the
            least alike first, and is a separate group, not among those counted.
    """
    labels, silhouette = _cut(1.0 - cosines, count)
    if alone_below is not None:
        labels = _set_apart(cosines, labels, alone_below)
    labels = _by_size(labels)
    return Groups(labels, _similarity(cosines, labels), silhouette)


def in_order(cosines: Matrix, labels: Labels) -> Labels:
    """Adapters group by group, and within each those most alike side by side.

    The order within a group is that of the leaves of the tree of average linkage.

    Args:
        cosines: As for `group`.
        labels: Group of each adapter, shape (T,), int64.

    Returns:
        Numbers of the adapters, shape (T,), int64.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    n = len(cosines)
    if n < 2:
        return np.arange(n)
    tree = linkage(squareform(1.0 - cosines, checks=False), method="average")
    leaves = leaves_list(tree).astype(np.int64)
    ordered: Labels = leaves[np.argsort(labels[leaves], kind="stable")]
    return ordered


def _cut(distances: Matrix, count: int | None) -> tuple[Labels, float | None]:
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    n = len(distances)
    one = np.zeros(n, dtype=np.int64)
    if n < 2 or count == 1:
        return one, None
    tree = linkage(squareform(distances, checks=False), method="average")
    if count is not None:
        labels = cut_tree(tree, n_clusters=min(count, n))[:, 0].astype(np.int64)
        return labels, _silhouette(distances, labels)
    cuts = cut_tree(tree, n_clusters=range(2, min(n, MOST_GROUPS + 1)))
    best, highest = one, LEAST_SILHOUETTE
    for labels in cuts.T:
        found = _silhouette(distances, labels)
        if found is not None and round(found, 9) > highest:  # equal except for rounding is equal
            best, highest = labels.astype(np.int64), round(found, 9)
    return best, _silhouette(distances, best)


def _silhouette(distances: Matrix, labels: Labels) -> float | None:
    """Mean silhouette; an adapter alone in its group counts 0."""
    count = int(labels.max()) + 1
    if not 1 < count < len(labels):
        return None
    member = np.eye(count)[labels]
    sizes = member.sum(axis=0)
    sums = distances @ member
    own = sizes[labels]
    each = np.arange(len(labels))
    within = sums[each, labels] / np.maximum(own - 1, 1)
    means = sums / sizes
    means[each, labels] = np.inf
    nearest = means.min(axis=1)
    widest = np.maximum(np.maximum(within, nearest), np.finfo(np.float64).tiny)
    return float(np.mean(np.where(own > 1, (nearest - within) / widest, 0.0)))


def _set_apart(cosines: Matrix, labels: Labels, alone_below: float) -> Labels:
    labels = labels.copy()
    same = labels[:, None] == labels
    sums = np.where(same, cosines, 0.0).sum(axis=1) - cosines.diagonal()
    others = same.sum(axis=1) - 1
    while True:
        similarity = np.where(others > 0, sums / np.maximum(others, 1), 1.0)
        least = int(similarity.argmin())
        if similarity[least] >= alone_below:
            return labels
        left = labels == labels[least]
        sums[left] -= cosines[left, least]
        others[left] -= 1
        labels[least], others[least] = labels.max() + 1, 0


def _similarity(cosines: Matrix, labels: Labels) -> Matrix:
    same = labels[:, None] == labels
    others = same.sum(axis=1) - 1
    sums = np.where(same, cosines, 0.0).sum(axis=1) - cosines.diagonal()
    return np.where(others > 0, sums / np.maximum(others, 1), 1.0)


def _by_size(labels: Labels) -> Labels:
    """Renumbered: larger groups first, of equals the one whose first adapter comes first."""
    found, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    number = np.empty(int(labels.max()) + 1, dtype=np.int64)
    number[found[order]] = np.arange(len(found))
    return number[labels]
