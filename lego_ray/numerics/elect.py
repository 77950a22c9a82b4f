"""Task arithmetic, TIES and DARE over tensors that are made one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.sparsify import least_kept
from lego_ray.numerics.stacks import Election

# Makes the adapters' tensors, all of one shape, float64; called again for every pass over them, so that
# they need never be in memory together.
Tensors = Callable[[], Iterable[Tensor]]
# Time to trim and count a value, in passes over it; finding the least that stays is most of that.
PASSES = 55


def total(tensors: Tensors) -> Tensor:
    """The sum, in the tensors' order."""
    return _sum(iter(tensors()))


@dataclass(frozen=True, slots=True)
class Prevailing:
    """What prevails of some tensors.

    Attributes:
        merged: The mean of those that agree, entry by entry; 0 if none does.
        factors: Makes what each entry of each tensor in turn counts for in that: 0, or 1 over how many
            agree. So the sum of the tensors, each times its factors, is `merged`.
    """

    merged: Tensor
    factors: Tensors


def prevailing(tensors: Tensors, density: float, election: Election) -> Prevailing:
    """Trims tensors, elects each entry's sign, and takes the mean of those that agree.

    TIES-Merging (arXiv 2306.01708, section 3).

    Args:
        tensors: Makes the tensors.
        density: Share of the entries of each that stay, and one at least: cores are small.
        election: How signs are elected; a tie is positive.
    """
    # Found once: that takes longer than all else. As floats: a small tensor that outlives the large ones
    # beside it keeps the C library from using their memory again.
    leasts: list[float] = []

    def trimmed() -> Iterator[Tensor]:
        for number, tensor in enumerate(tensors()):
            if density == 1:
                yield tensor
                continue
            if number == len(leasts):
                leasts.append(float(least_kept(tensor, density, 1)))
            yield torch.where(tensor.abs() >= leasts[number], tensor, 0.0)

    votes = _sum(t if election == "total" else t.sign() for t in trimmed())
    sign = torch.where(votes >= 0, 1.0, -1.0)
    sums, counts = torch.zeros_like(votes), torch.zeros_like(votes)
    for tensor in trimmed():
        agree = tensor * sign > 0
        sums += torch.where(agree, tensor, 0.0)
        counts += agree
    counts = counts.clamp(min=1)

    def factors() -> Iterator[Tensor]:
        for tensor in trimmed():
            yield (tensor * sign > 0) / counts

    return Prevailing(sums / counts, factors)


def thinned(tensors: Tensors, density: float, draw: int) -> Tensors:
    """Drops entries at random and divides the rest by the density (DARE, arXiv 2311.03099).

    What an adapter loses depends on its place by norm, largest first: not on its factors, nor on the
    order of the adapters, except for those of one norm.

    Args:
        tensors: Makes the tensors.
        density: Share of the entries of each that stay, on average.
        draw: What the random choice is made from.

    Returns:
        Makes the same every time it is called.
    """
    norms = torch.stack([torch.linalg.vector_norm(t) for t in tensors()])
    places = torch.argsort(torch.argsort(norms, descending=True, stable=True)).tolist()

    def left() -> Iterator[Tensor]:
        for tensor, place in zip(tensors(), places, strict=True):
            mixed = hashlib.sha256(b"%d\n%d" % (draw, place)).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big") >> 1)
            stays = torch.rand(tensor.shape, generator=generator) < density
            yield torch.where(stays.to(tensor.device), tensor / density, 0.0)

    return left


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    found = next(tensors).clone()
    for tensor in tensors:
        found += tensor
    return found
