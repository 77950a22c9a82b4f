"""Scale, spectrum and adapters' weights by CMA-ES, drawn again from the start at each call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lego_ray.lazy import np
from lego_ray.tuning.space import Choice, Space, rounded

if TYPE_CHECKING:
    from lego_ray.lazy import NDArray

# Share of each range that the first generation spreads over: of 0.25 to 4, a factor of 1.5.
SPREAD = 0.15


def generation_size(space: Space, start: Choice) -> int:
    """Trials of one generation, of so many numbers that are searched."""
    return 4 + int(3 * math.log(max(1, len(_at(space, start)))))


def generations(
    space: Space, seed: int, start: Choice, values: Sequence[float | None]
) -> list[Choice]:
    """The generation that the next trial belongs to.

    Args:
        space: Where to search.
        seed: Fixes everything random; below 2^32.
        start: Where to start; what is not a number stays as it is there.
        values: What the trials of this part reached so far, None for those that failed.

    Returns:
        All choices of that generation, in the order that they are tried.
    """
    from cmaes import CMA

    at = _at(space, start)
    size = generation_size(space, start)
    numbers = len(at)
    if numbers == 1:  # the covariance of one number is none; a second one changes nothing
        at = [*at, 0.5]
    search = CMA(
        mean=np.array(at),
        sigma=SPREAD,
        bounds=np.array([[0.0, 1.0]] * len(at)),
        seed=seed,
        population_size=size,
    )
    for done in range(0, len(values) - size + 1, size):
        points = [search.ask() for _ in range(size)]
        search.tell(list(zip(points, _losses(values[done : done + size]), strict=True)))
    points = [search.ask() for _ in range(size)]
    return [_choice(space, start, point[:numbers]) for point in points]


def _losses(values: Sequence[float | None]) -> list[float]:
    """What is to be lowered: minus the values, and for those that failed as much as the worst."""
    worst = min((value for value in values if value is not None), default=0.0)
    return [-worst if value is None else -value for value in values]


def _at(space: Space, choice: Choice) -> list[float]:
    """A choice as shares of the ranges."""
    found = []
    if space.scale.is_open:
        found.append(space.scale.share_of(choice.scale, log=True))
    if _has_power(space, choice):
        assert space.spectrum is not None
        assert choice.spectrum is not None
        found.append(space.spectrum.share_of(choice.spectrum, log=False))
    if space.is_weighted:
        weights = (choice.weights.get(uri, 1.0) for uri in space.adapters)
        found += [space.weights.share_of(weight, log=True) for weight in weights]
    return found


def _has_power(space: Space, choice: Choice) -> bool:
    return bool(space.spectrum and space.spectrum.is_open and choice.spectrum is not None)


def _choice(space: Space, start: Choice, point: NDArray[np.float64]) -> Choice:
    """The choice at shares of the ranges."""
    at: Iterator[float] = iter(point.tolist())
    scale, spectrum, weights = start.scale, start.spectrum, start.weights
    if space.scale.is_open:
        scale = space.scale.at(next(at), log=True)
    if _has_power(space, start):
        assert space.spectrum is not None
        spectrum = space.spectrum.at(next(at), log=False)
    if space.is_weighted:
        weights = {uri: space.weights.at(next(at), log=True) for uri in space.adapters}
        if space.scale.is_open:
            weights = _about_one(space, weights)
    return replace(start, scale=scale, spectrum=spectrum, weights=weights)


def _about_one(space: Space, weights: Mapping[str, float]) -> dict[str, float]:
    """Weights over their geometric mean: what all have in common is the scale, which is searched too."""
    mean = math.exp(sum(map(math.log, weights.values())) / len(weights))
    return {uri: space.weights.held(rounded(weight / mean)) for uri, weight in weights.items()}
