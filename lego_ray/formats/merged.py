"""A merged site, and its factors as they are stored: what every layout's writer starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lego_ray.errors import InvalidOption, ShapeMismatch
from lego_ray.formats.decode import DTYPES, check_finite, torch_dtype
from lego_ray.formats.site_factors import SiteKind
from lego_ray.lazy import Tensor, torch


@dataclass(frozen=True, slots=True, eq=False)
class MergedSite:
    """A merged factor pair with scaling folded in: `dW = b @ a`.

    Attributes:
        site: The target module's path in the base model.
        kind: As in `SiteFactors`.
        a: Shape (k, d_in), any floating type.
        b: Shape (d_out, k).
        a_shape_tail: For a convolution, the shape of one row of A as stored (in, kernel sizes);
            empty for the others.
        b_ndim: Number of axes of B as stored: 2, or a convolution's 3 to 5.
        is_put_together: Whether it is a fused module made of its parts, which is stored at its own rank,
            whatever the adapter's.
    """

    site: str
    kind: SiteKind
    a: Tensor
    b: Tensor
    a_shape_tail: tuple[int, ...] = ()
    b_ndim: int = 2
    is_put_together: bool = False


def in_order(sites: Sequence[MergedSite], dtype: str, where: str) -> list[MergedSite]:
    """The sites in the order every file has them.

    Args:
        sites: The merged sites, in any order.
        dtype: Element type to store.
        where: The adapter, for the error.

    Raises:
        InvalidOption: If `dtype` is unknown.
        ShapeMismatch: If there are no sites, or two of one name.
    """
    if dtype not in DTYPES:
        raise InvalidOption("dtype", f"got {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not sites:
        raise ShapeMismatch(where or "merged adapter", "there is no site to write")
    ordered = sorted(sites, key=lambda site: site.site)
    for before, after in pairwise(ordered):
        if before.site == after.site:
            raise ShapeMismatch(after.site, "the site is given twice")
    return ordered


def stored_pair(
    site: MergedSite, rank: int, dtype: str, *, compact: bool, keys: tuple[str, str]
) -> tuple[Tensor, Tensor]:
    """The two tensors of a site as they go into the file.

    Args:
        site: The site, of rank k at most `rank`.
        rank: The adapter's rank.
        dtype: Element type to store.
        compact: Whether to keep rank k instead of filling up with zeros.
        keys: What A and B are called in the file, for the error.

    Returns:
        A and B, shaped as a convolution's if the site is one, contiguous.

    Raises:
        ShapeMismatch: If the pair does not fit together.
        InvalidOption: If `dtype` cannot hold a value.
        NonFiniteWeights: If a factor holds NaN or infinity.
    """
    k = _check(site, rank)
    stored = k if compact or site.is_put_together else rank
    a = _cast(site.a, dtype, keys[0])
    b = _cast(site.b, dtype, keys[1])
    full_a = a.new_zeros((stored, a.shape[1]))
    full_a[:k] = a
    full_b = b.new_zeros((b.shape[0], stored))
    full_b[:, :k] = b
    tail = site.a_shape_tail or (a.shape[1],)
    return (
        full_a.reshape(stored, *tail),
        full_b.reshape(b.shape[0], stored, *(1,) * (site.b_ndim - 2)),
    )


def check_storable(largest: float, dtype: str, name: str) -> None:
    """Passes a merged factor that an element type can hold.

    Args:
        largest: Its largest absolute value.
        dtype: Element type to store.
        name: What the factor is called, for the error.

    Raises:
        InvalidOption: If it would overflow.
    """
    wider = "BF16 or F32" if dtype == "F16" else "F32"
    if not bool(torch.isfinite(torch.tensor(largest, dtype=torch.float64).to(torch_dtype(dtype)))):
        raise InvalidOption(
            "--dtype",
            f"{dtype} cannot hold {name}, whose largest value is {largest:g}",
            f"Run the same command with --dtype {wider}; finished tasks are not run again.",
        )


def stored_as(tensor: Tensor, dtype: str, name: str) -> Tensor:
    """A tensor as it goes into a file, contiguous.

    Args:
        tensor: Any shape, floating point.
        dtype: Element type to store.
        name: Its key, for the error.

    Raises:
        InvalidOption: If `dtype` cannot hold a value.
        NonFiniteWeights: If it holds NaN or infinity.
    """
    return _cast(tensor, dtype, name).contiguous()


def _check(site: MergedSite, rank: int) -> int:
    """The site's own rank, once its shapes are known to fit."""
    if site.a.ndim != 2 or site.b.ndim != 2 or site.a.shape[0] != site.b.shape[1]:
        problem = f"A has shape {list(site.a.shape)} and B {list(site.b.shape)}, expected a pair"
        raise ShapeMismatch(site.site, problem)
    k = site.a.shape[0]
    if k < 1 or (k > rank and not site.is_put_together):
        raise ShapeMismatch(site.site, f"its rank is {k}, expected 1 to {rank}")
    if site.a_shape_tail and torch.Size(site.a_shape_tail).numel() != site.a.shape[1]:
        problem = f"a row of A has {site.a.shape[1]} values, {list(site.a_shape_tail)} takes others"
        raise ShapeMismatch(site.site, problem)
    if site.b_ndim != (len(site.a_shape_tail) + 1 if site.a_shape_tail else 2):
        raise ShapeMismatch(site.site, f"B of {site.b_ndim} axes does not go with A as stored")
    return k


def _cast(tensor: Tensor, dtype: str, name: str) -> Tensor:
    check_finite(tensor, "merged adapter", name)
    out = tensor.detach().to("cpu", torch_dtype(dtype))
    if not bool(torch.isfinite(out).all()):
        check_storable(float(tensor.abs().max()), dtype, name)
    return out
