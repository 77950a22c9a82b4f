"""Small random factor pairs; dense, so that a sum of all of them hides nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lego_ray.methods.base import MergeMethod
from lego_ray.numerics.msu import msu_rows
from lego_ray.numerics.pool import Pool, pool_of

D_IN, D_OUT = 13, 9


def factors(seed: int, rank: int, d_in: int = D_IN, d_out: int = D_OUT) -> tuple[Tensor, Tensor]:
    """A (rank, d_in) and B (d_out, rank), float32."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, d_in, generator=generator)
    return a, 0.3 * torch.randn(d_out, rank, generator=generator)


def pool_from(
    adapters: list[tuple[Tensor, Tensor, float]], method: MergeMethod | None = None
) -> Pool:
    """The pool of adapters (A, B, scaling) in canonical order, prepared for a method if given."""
    d_in = adapters[0][0].shape[1]
    rows = [msu_rows(a, b, s) for a, b, s in adapters]
    if method:
        rows = [method.prepare(r, d_in) for r in rows]
    return pool_of(enumerate(rows), d_in).in_order()


def zoo(
    ranks: list[int], scalings: list[float] | None = None
) -> list[tuple[Tensor, Tensor, float]]:
    """Adapters of these ranks."""
    scalings = scalings or [2.0] * len(ranks)
    return [(*factors(t, r), s) for t, (r, s) in enumerate(zip(ranks, scalings, strict=True))]


def update(rows: Tensor, d_in: int) -> np.ndarray:
    """The dense update of rows [a ; b], float64."""
    wide = rows.double()
    return (wide[:, d_in:].T @ wide[:, :d_in]).numpy()


def total(adapters: list[tuple[Tensor, Tensor, float]]) -> np.ndarray:
    """The dense sum of the adapters' updates, float64."""
    whole = sum(s * (b.double() @ a.double()) for a, b, s in adapters)
    assert isinstance(whole, Tensor)
    return whole.numpy()
