"""Plain pairs for updates that depend on the base model's weight, in float64.

See `formats.peft_base` for the kinds. With W the weight and `s B A` the stored product, W becomes

- `W - P + s B A` where training subtracted an initial product P from W, and
- `m / |V| V` by rows, or by columns, where it rescales them to magnitudes m, V being the above.

The difference to W is an update. Without magnitudes it has rank 2 r at most and is kept whole; else the
nearest pair of a rank is made by its singular terms (Eckart and Young, 1936).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.gauge import align_signs
from lego_ray.numerics.decompositions.truncated_svd import svd_of_sum


@dataclass(frozen=True, slots=True)
class NearPair:
    """A plain pair, and how near it is to the update it stands for.

    Attributes:
        a: A, shape (rank, d_in), float32.
        b: B, shape (d_out, rank), float32.
        lost: Squared Frobenius norm of what the pair leaves out of the update, or by which the update
            is in doubt; 0 if it is exact.
        total: That of the update.
    """

    a: Tensor
    b: Tensor
    lost: float
    total: float


@dataclass(frozen=True, slots=True)
class InitialPair:
    """The pair that training began with, as far as a weight tells.

    Attributes:
        a: A0, shape (r, d_in), float64.
        b: B0, shape (d_out, r), float64.
        doubt: Frobenius norm by which the product of training may differ, which was found in float32:
            to first order in its rounding, as the terms are apart or the columns independent.
    """

    a: Tensor
    b: Tensor
    doubt: float


def initial_pair(init: str, weight: Tensor, rank: int) -> InitialPair | None:
    """The pair whose product training subtracted from a weight, `P = B0 A0`; of OLoRA, s times that.

    The product alone is defined by the weight, so the pair is another than the one training began with.

    Args:
        init: `pissa` for the largest singular terms, or `olora` for the first columns' projection,
            which is `Q[:, :r] R[:r]` of `W = Q R`.
        weight: W, shape (d_out, d_in), float64.
        rank: r, at most d_out and d_in.

    Returns:
        The pair; None if the weight does not define its product, since of two terms that are equally
        large one is in it, or the columns depend on each other.
    """
    d_out, d_in = weight.shape
    if init == "olora":
        b, triangle = torch.linalg.qr(weight[:, :rank])
        steep, size = triangle.diagonal().abs(), float(torch.linalg.vector_norm(weight))
        least = float(steep.min())
        if not least > _UNSURE * size:
            return None
        return InitialPair(b.T @ weight, b, _ROUNDING * size * float(steep.max()) / least)
    is_wide = d_out <= d_in
    squares, vectors = _eigen(weight if is_wide else weight.T)
    values = [*squares.clamp(min=0).sqrt().tolist(), 0.0]
    last, gap = values[rank - 1], values[rank - 1] - values[rank]
    is_whole = rank == len(values) - 1 or last <= _UNSURE * values[0]
    if not is_whole and not gap > _UNSURE * values[0]:
        return None
    doubt = _ROUNDING * values[0] * (1.0 if is_whole else last / gap)
    top = vectors[:, :rank]
    pair = (top.T @ weight, top) if is_wide else (top.T, weight @ top)
    return InitialPair(*pair, doubt)


# Training found the initial pair in float32: what is nearer than its rounding, another machine swaps.
_ROUNDING = 2.0**-21  # a few units in the last place, as LAPACK's errors are
_UNSURE = 2.0**-22
# A share of an update that is too small to be worth a word.
_NOTHING = 1e-3


def exact_pair(
    stored: tuple[Tensor, Tensor], initial: InitialPair, scaling: float, rank: int
) -> NearPair:
    """`s B A - B0 A0` as a balanced pair, its largest singular term first.

    Args:
        stored: A (r, d_in) and B (d_out, r).
        initial: A0 and B0, whose product training subtracted from the weight.
        scaling: s.
        rank: Rank of the pair, the least of 2 r, d_in and d_out.
    """
    a = torch.cat([stored[0].double(), initial.a])
    b = torch.cat([stored[1].double() * scaling, -initial.b], dim=1)
    d_in = a.shape[1]
    terms = svd_of_sum(torch.cat([a, b.T], dim=1), d_in)
    total, doubt = float(terms.s.square().sum()), initial.doubt**2
    lost = doubt if doubt > _NOTHING**2 * total else 0.0
    return _pair(terms.rows(rank), d_in, rank, lost, total)


def rescaled(
    weight: Tensor,
    stored: tuple[Tensor, Tensor],
    scaling: float,
    magnitude: Tensor,
    initial: InitialPair | None = None,
    *,
    columns: int = 0,
    epsilon: float = 0.0,
) -> Tensor:
    """What DoRA adds to a weight, `m / (|V| + e) V - W` by rows or columns, `V = W - P + s B A`.

    Args:
        weight: W, shape (d_out, d_in), float64.
        stored: A (r, d_in) and B (d_out, r).
        scaling: s.
        magnitude: m, shape (d_out,), or (columns,).
        initial: The pair of P; None for no P.
        columns: Number of inputs that have a magnitude, each of d_in / columns columns of V that lie
            side by side (a convolution's kernel); 0 if the rows have them.
        epsilon: e.

    Returns:
        Shape (d_out, d_in), float64; not finite where a row of V is zero and so is e.
    """
    a, b = stored
    new = torch.addmm(weight, b.double(), a.double(), alpha=scaling)
    if initial is not None:
        new.addmm_(initial.b, initial.a, alpha=-1)
    if columns:
        parts = new.view(len(new), columns, -1)
        parts *= (magnitude.double() / (torch.linalg.vector_norm(parts, dim=(0, 2)) + epsilon))[
            :, None
        ]
    else:
        new *= (magnitude.double() / (torch.linalg.vector_norm(new, dim=1) + epsilon))[:, None]
    return new.sub_(weight)


def nearest_pair(update: Tensor, rank: int) -> NearPair:
    """The pair of a rank that is nearest to a dense update, balanced, its largest term first.

    The singular vectors of the shorter side are those of a Gram matrix; the other factor is the update
    times them. So at full rank the product is the update, whatever the vectors' rounding.

    Args:
        update: Shape (d_out, d_in), float64, finite.
        rank: At most d_out and d_in.
    """
    d_out, d_in = update.shape
    is_wide = d_out <= d_in
    short = update if is_wide else update.T
    vectors = _eigen(short)[1][:, :rank]
    long = vectors.T @ short
    sizes = torch.linalg.vector_norm(long, dim=1)
    root = sizes.sqrt()
    scaled = torch.where(root[:, None] > 0, long / root[:, None], 0.0)
    halves = (scaled, vectors.T * root[:, None])
    rows = torch.cat(halves if is_wide else halves[::-1], dim=1)
    flat = update.flatten()
    total = float(flat @ flat)
    kept = float(long.square().sum())
    lost = 0.0 if rank == min(d_out, d_in) else max(0.0, total - kept)
    return _pair(align_signs(rows, d_in), d_in, rank, lost, total)


def _eigen(short: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values and left singular vectors, largest first."""
    squares, vectors = torch.linalg.eigh(short @ short.T)
    return squares.flip(0), vectors.flip(1)


def _pair(rows: Tensor, d_in: int, rank: int, lost: float, total: float) -> NearPair:
    plain = torch.zeros(rank, rows.shape[1], dtype=torch.float32)
    plain[: len(rows)] = rows.float()
    a, b = plain[:, :d_in].contiguous(), plain[:, d_in:].T.contiguous()
    return NearPair(a, b, lost, total)


def relative_error(lost: float, total: float) -> float:
    """Relative Frobenius error; 0 of an update that is zero.

    Args:
        lost: Squared norm of what is left out.
        total: Squared norm of the update.
    """
    return math.sqrt(lost / total) if total > 0 else 0.0
