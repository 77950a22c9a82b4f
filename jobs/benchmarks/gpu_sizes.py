"""Sizes of what the GPU benchmark checks and measures: for a card, and small ones to try the script."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.benchmarks.gpu_checks import Site

ROUTES = ("gram", "msu", "spread")


@dataclass(frozen=True, slots=True)
class Zoo:
    """Size of a synthetic zoo: see `synthetic_zoo.build`."""

    adapters: int
    layers: int
    rank: int
    hidden: int
    intermediate: int

    def __str__(self) -> str:
        return f"{self.adapters} adapters, {7 * self.layers} sites of width {self.hidden}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is checked and measured.

    Attributes:
        sites: Checked.
        shape: Rows and width of the points of a step.
        ranks: Centroids of a step.
        searched: Rows, width and clusters of the search, and of k-means by others.
        copied: Bytes of the copy that measures bandwidth.
        zoos: Merged; the first of them with the checks.
    """

    sites: tuple[Site, ...]
    shape: tuple[int, int]
    ranks: tuple[int, ...]
    searched: tuple[int, int, int]
    copied: int
    zoos: tuple[Zoo, ...]


FULL = Sizes(
    sites=(
        Site("small", 160, 1024, 16, ROUTES),
        Site("medium", 1024, 4096, 16, ROUTES),
        Site("large", 6144, 4096, 32, ("msu", "spread")),
    ),
    shape=(16_000, 8192),
    ranks=(16, 64),
    searched=(8192, 4096, 64),
    copied=1 << 30,
    zoos=(
        Zoo(16, 1, 8, 512, 1024),
        Zoo(64, 4, 16, 2048, 5632),
        Zoo(512, 1, 16, 2048, 5632),
    ),
)
SMALL = Sizes(
    sites=(
        Site("small", 96, 128, 8, ROUTES),
        Site("medium", 256, 256, 8, ROUTES),
        Site("large", 2304, 64, 8, ("msu", "spread")),
    ),
    shape=(1024, 256),
    ranks=(8,),
    searched=(512, 128, 8),
    copied=1 << 22,
    zoos=(Zoo(4, 1, 4, 64, 128),),
)
