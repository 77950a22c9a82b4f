"""The base model's weights that a task needs: each is read once, and what is computed with it."""

from __future__ import annotations

from collections.abc import Mapping

from lego_ray.errors import NonFiniteWeights, SourceChanged, UnsupportedAdapter
from lego_ray.formats.decode import (
    as_float32,
    as_stored,
    check_finite,
    rows_of,
    stored_pair,
    stored_scaling,
    stored_tensors,
)
from lego_ray.formats.site_factors import BaseWeight, Derived, SiteFactors
from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.decompositions.with_base import (
    InitialPair,
    NearPair,
    exact_pair,
    initial_pair,
    nearest_pair,
    rescaled,
)
from lego_ray.storage.base import ByteRange, Store
from lego_ray.storage.uri import parse_uri


class BaseWeights:
    """Reads a base model's weights for the sites of one task, each once whatever needs it."""

    def __init__(self) -> None:
        """Reads nothing yet."""
        self._stores: dict[str, Store] = {}
        self._weights: dict[BaseWeight, Tensor] = {}
        self._initial: dict[tuple[tuple[BaseWeight, ...], str, int], InitialPair | None] = {}

    @property
    def bytes_read(self) -> int:
        """Bytes fetched."""
        return sum(store.bytes_read for store in self._stores.values())

    @property
    def requests(self) -> int:
        """Requests made."""
        return sum(store.requests for store in self._stores.values())

    def pair(self, site: SiteFactors, buffers: Mapping[str, memoryview], adapter: str) -> NearPair:
        """The plain pair of a site whose update is computed with the base model.

        Args:
            site: The site.
            buffers: The bytes of each of its tensors, by name.
            adapter: The adapter's URI, for errors.

        Raises:
            NonFiniteWeights: If a tensor or the update is not finite.
            UnsupportedAdapter: If the weight does not say what training began with.
            SourceChanged: If the base model's file is not the one that was scanned.
        """
        derived = site.derived
        assert derived is not None
        assert derived.weights or not derived.needs_base  # as a scan leaves it
        stored = stored_pair(site, buffers)
        for name, tensor in stored_tensors(site, buffers, stored):
            check_finite(tensor, adapter, name)
        scaling = stored_scaling(site, buffers, adapter)
        wide = self._wide(derived.weights, stored, adapter)
        initial = self._started(derived, wide, site, adapter)
        if derived.magnitude is None:
            assert initial is not None
            found = exact_pair(stored, initial, scaling, site.rank)
            return _rows_of(site, found)
        span = derived.magnitude
        magnitude = as_float32(span, buffers[span.name]).flatten()
        check_finite(magnitude, adapter, span.name)
        update = rescaled(
            wide,
            stored,
            scaling,
            magnitude,
            initial,
            columns=derived.columns,
            epsilon=derived.epsilon,
        )
        del wide
        if not bool(torch.isfinite(torch.linalg.vector_norm(update))):  # makes nothing as large
            part = "column" if derived.columns else "row"
            problem = f"a {part} of {site.site} is zero with its update, and DoRA cannot rescale it"
            hint = "Check that --base is the model it was trained on, or leave the adapter out."
            raise NonFiniteWeights(adapter, problem, hint)
        return _rows_of(site, nearest_pair(update, site.rank))

    def _started(
        self, derived: Derived, wide: Tensor, site: SiteFactors, adapter: str
    ) -> InitialPair | None:
        if not derived.init:
            return None
        if derived.initial:
            a, b = (self._read(each, adapter).double() for each in derived.initial)
            return InitialPair(a, b * derived.scaling, 0.0)
        key = (derived.weights, derived.init, derived.rank)
        if key not in self._initial:
            self._initial[key] = initial_pair(derived.init, wide, derived.rank)
        initial = self._initial[key]
        if initial is None:
            problem = (
                f"what it was trained from at {site.site} cannot be computed: "
                f"{derived.weights[0].span.name} of the base model does not define it at rank "
                f"{derived.rank}, since parts of it are equally large or depend on each other"
            )
            hint = (
                "Convert it with PEFT, which needs the adapter as saved before training: "
                "save_pretrained(out, path_initial_model_for_weight_conversion=INITIAL)."
            )
            raise UnsupportedAdapter(adapter, problem, hint)
        # PiSSA divides its terms by the scaling before training multiplies by it, OLoRA does not.
        scale = derived.scaling if derived.init == "olora" else 1.0
        return InitialPair(initial.a, initial.b * scale, initial.doubt * scale)

    def _wide(
        self, weights: tuple[BaseWeight, ...], stored: tuple[Tensor, Tensor], adapter: str
    ) -> Tensor:
        """The weight of a site, whole, shape (d_out, d_in), float64; empty where none is needed."""
        d_in = stored[0].shape[1]
        if not weights:
            return torch.empty(0)
        parts = [_oriented(self._read(each, adapter), each, d_in).double() for each in weights]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read(self, weight: BaseWeight, adapter: str) -> Tensor:
        """A weight as it is stored, its element type too."""
        if weight not in self._weights:
            store = self._stores.setdefault(weight.folder, parse_uri(weight.folder).open())
            part = ByteRange(weight.span.start, weight.span.end)
            try:
                [data] = store.read_ranges(weight.key, [part], weight.version or None)
            except SourceChanged as error:
                raise SourceChanged(error.where, error.problem, error.hint, adapter) from error
            found = as_stored(weight.span, data)
            check_finite(found, f"{weight.folder}/{weight.key}", weight.span.name)
            self._weights[weight] = found
        return self._weights[weight]


def _oriented(tensor: Tensor, weight: BaseWeight, d_in: int) -> Tensor:
    """A weight as (d_out, d_in), a convolution flattened."""
    if weight.is_transposed:
        return tensor.T
    flat = tensor.reshape(-1, d_in)
    return torch.cat(flat.chunk(2)[::-1]) if weight.is_swapped else flat


def _rows_of(site: SiteFactors, found: NearPair) -> NearPair:
    """The pair with the rows of B that are the site's."""
    if site.rows is None and not site.is_swapped:
        return found
    return NearPair(found.a, rows_of(site, found.b), found.lost, found.total)
