"""What a page is made of: the merge's own manifest, and what a catalog and the sources add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lego_ray.reporting.study import StudyFacts


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """A site of a merge; what is not known is None.

    Attributes:
        site: The target module's path.
        error: Of the merged update to the sum of the sources', relative to the sum.
        norm_ratio: Norm of the merged update over that of the sum.
        n_msus: Size of its pool.
        rank: Merged rank.
        inertia: Sum of squared distances of the MSUs to their centroids.
        source_norm: Root mean square of the sources' norms, those that have the site.
        merged_norm: Norm of the merged update.
    """

    site: str
    error: float | None = None
    norm_ratio: float | None = None
    n_msus: int | None = None
    rank: int | None = None
    inertia: float | None = None
    source_norm: float | None = None
    merged_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that has members.

    Attributes:
        site: Its site.
        place: Its place among the site's clusters by size, from 0, the largest.
        msus: Its members.
        adapters: How many adapters they are of.
    """

    site: str
    place: int
    msus: int
    adapters: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Where an adapter's MSUs went, over all sites.

    Attributes:
        name: The adapter.
        by_place: MSUs by the place of their cluster among its site's, from the largest.
        alone: MSUs in clusters that no other adapter has a part in.
    """

    name: str
    by_place: Mapping[int, int]
    alone: int

    @property
    def msus(self) -> int:
        """All of them."""
        return sum(self.by_place.values())

    @property
    def share_alone(self) -> float:
        """The share of them in clusters that no other adapter has a part in."""
        return self.alone / self.msus

    @property
    def share_in_largest(self) -> float:
        """The share of them in the largest clusters of their sites."""
        return self.by_place.get(0, 0) / self.msus

    @property
    def mean_place(self) -> float:
        """Mean place of their clusters in their sites, from 0, the largest."""
        return sum(place * msus for place, msus in self.by_place.items()) / self.msus


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a merge is one adapter's, whatever merged it.

    Attributes:
        name: The adapter.
        weight: Sum of its shares, in merged ranks; negative where it works against the others.
        msus: Its ranks that are named for a merged rank.
        clusters: Merged ranks that name it.
    """

    name: str
    weight: float
    msus: int
    clusters: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A source against the merged adapter.

    Attributes:
        name: The adapter.
        norm: Norm of its update.
        share: Of it, what is in the merged one: `<W, dW> / |dW|^2`.
        cosine: With the merged one.
    """

    name: str
    norm: float
    share: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Alike:
    """How alike the sources are.

    Attributes:
        names: The adapters.
        cosines: Of their updates, shape (T, T), in that order.
        exact: Whether they are exact; else estimated by sketches.
    """

    names: Sequence[str]
    cosines: NDArray[np.float64]
    exact: bool


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a catalog adds.

    Attributes:
        merge: The row of `merges`.
        clusters: Those of all sites, by site and place; None if the method does not cluster.
        reaches: Each adapter's, in the order of the manifest; None as above.
        shares: Each adapter's, in the order of the manifest; empty if no lineage is recorded.
    """

    merge: Mapping[str, Any]
    clusters: Sequence[Cluster] | None
    reaches: Sequence[Reach] | None
    shares: Sequence[Share] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What the sources add.

    Attributes:
        errors: The figures overall, as `verify` has them.
        kept: Each source's.
        alike: How alike they are.
    """

    errors: Mapping[str, Any]
    kept: Sequence[Kept]
    alike: Alike


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a merge.

    Attributes:
        place: Where it is.
        manifest: Its manifest.
        names: Short name of each source, in the manifest's order, no two the same.
        sites: Its sites in natural order; empty with the manifest alone.
        recorded: What the catalog adds, if one was given.
        measured: What the sources add, if they were given.
        study: The study that it is the best of, if it is of one.
    """

    place: str
    manifest: Mapping[str, Any]
    names: Sequence[str]
    sites: Sequence[SiteFacts]
    recorded: Recorded | None
    measured: Measured | None
    study: StudyFacts | None = None


def short_names(uris: Sequence[str]) -> list[str]:
    """The parts of each URI that tell it from the others; the last part of an only one.

    Equal URIs, which a manifest of others may hold, are numbered.
    """
    parts = [uri.rstrip("/").split("/") for uri in uris]
    shared = 0
    # Each keeps its last part, whatever it shares.
    for column in zip(*(each[:-1] for each in parts), strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    seen: dict[str, int] = {}
    names = []
    for each in parts:
        name = "/".join(each[shared:])
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names
