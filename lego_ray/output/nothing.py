"""Says where a merge does nothing: updates that are zero everywhere, and sources never trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.sources.contents import tensor_hash
from lego_ray.tasks.values import SiteResult

# Products of float32 factors that cancel leave this much of their size, and some more.
CANCELED = 1e-6
_LISTED = 3


def zero_warnings(
    sites: Iterable[SiteResult],
    adapters: Sequence[AdapterRecord],
    hashes: Mapping[int, Iterable[tuple[str, str]]],
) -> Iterator[str]:
    """Warns of an update that changes nothing, and of adapters that were never trained.

    Args:
        sites: The merged sites.
        adapters: The sources.
        hashes: Name and `tensor_hash` of the tensors of each that were read, by its number.
    """
    if all(_is_zero(site) for site in sites):
        yield "the merged update is zero at every site: the adapter changes nothing"
    bare = [
        a.uri for n, a in enumerate(adapters) if a.sites and _is_bare(a, dict(hashes.get(n, ())))
    ]
    if bare:
        more = f" and {len(bare) - _LISTED} more" if len(bare) > _LISTED else ""
        yield (
            f"{', '.join(bare[:_LISTED])}{more}: a factor is zero at every site, as before training; "
            "the update of such an adapter is zero"
        )


def _is_zero(site: SiteResult) -> bool:
    """Whether B A is zero, to the rounding of its factors."""
    a, b = site.a.astype(np.float64), site.b.astype(np.float64)
    inner, outer = a @ a.T, b.T @ b
    largest = float(np.trace(inner) * np.trace(outer))
    # |B A|^2 is the sum of the products of the two, element by element.
    return not float((inner * outer).sum()) > CANCELED**2 * largest


def _is_bare(adapter: AdapterRecord, hashes: Mapping[str, str]) -> bool:
    return all(
        _is_of_zeros(site.b, hashes) or _is_of_zeros(site.a, hashes) for site in adapter.sites
    )


def _is_of_zeros(span: TensorSpan, hashes: Mapping[str, str]) -> bool:
    return hashes.get(span.name) == _hash_of_zeros(span.dtype, span.shape, span.end - span.start)


@cache
def _hash_of_zeros(dtype: str, shape: tuple[int, ...], size: int) -> str:
    return tensor_hash(TensorSpan("", dtype, shape, 0, size), memoryview(bytes(size)))
