"""One tensor of a base model with an adapter's update in it, by PEFT's arithmetic to the bit."""

from __future__ import annotations

from lego_ray.baking.changes import Change, Update
from lego_ray.errors import NonFiniteWeights
from lego_ray.formats.decode import as_float32, as_stored, site_matrices, site_scaling
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.lazy import Tensor, torch
from lego_ray.sources.recorded import folder_of
from lego_ray.storage.base import ByteRange

_CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


class Factors:
    """Reads an adapter's tensors; those read last are kept, since experts share theirs.

    Args:
        adapter: The adapter.
    """

    def __init__(self, adapter: AdapterRecord) -> None:
        self.adapter = adapter
        self._store = folder_of(adapter).open()
        self._kept: dict[TensorSpan, memoryview] = {}
        self._experts: tuple[tuple[TensorSpan, TensorSpan], Tensor] | None = None

    @property
    def bytes_read(self) -> int:
        """Bytes fetched."""
        return self._store.bytes_read

    def read(self, *spans: TensorSpan) -> list[memoryview]:
        """The bytes of tensors, in the order asked."""
        new = [span for span in dict.fromkeys(spans) if span not in self._kept]
        ranges = [ByteRange(span.start, span.end) for span in new]
        kept = {span: self._kept[span] for span in spans if span in self._kept}
        if new:
            adapter = self.adapter
            views = self._store.read_ranges(adapter.weights_key, ranges, adapter.version or None)
            kept |= zip(new, views, strict=True)
        self._kept = kept
        return [kept[span] for span in spans]

    def experts(self, pair: SiteFactors) -> Tensor:
        """`s B A` of every expert of a pair's parameter, shape (E, d_out, d_in).

        PEFT multiplies all at once, which adds in another order than one expert alone.
        """
        packed = pair.packed
        key = (pair.a, pair.b)
        if packed is None or (self._experts and self._experts[0] == key):
            return self._experts[1] if self._experts else torch.empty(0)
        self._experts = None  # before the next is made
        a, b = (as_float32(s, d) for s, d in zip(key, self.read(*key), strict=True))
        if packed.is_swapped:
            a, b = b.T, a.T
        shape = (
            (b.shape[0], packed.experts, -1)
            if packed.is_grouped
            else (b.shape[0], -1, packed.experts)
        )
        columns = b.reshape(shape)
        columns = columns.transpose(1, 2) if packed.is_grouped else columns
        rows = a.reshape(packed.experts, -1, a.shape[-1])
        self._experts = key, torch.einsum("o r e, e r i -> e o i", columns, rows) * pair.scaling
        return self._experts[1]


def changed(weight: Tensor, change: Change, factors: Factors) -> Tensor:
    """A tensor as PEFT's `merge_and_unload` leaves it.

    Args:
        weight: The base model's, float32, float16 or bfloat16; it is written to.
        change: What becomes of it.
        factors: The adapter's tensors.

    Returns:
        The tensor, of the same shape and type.

    Raises:
        NonFiniteWeights: If it has NaN or infinity then.
    """
    if change.replaced_by is not None:
        [data] = factors.read(change.replaced_by)
        weight = as_stored(change.replaced_by, data).to(weight.dtype)
    for update in change.updates:
        _add(weight, update, factors)
    for each in change.added:
        [data] = factors.read(each.span)
        weight += (as_float32(each.span, data) * each.scaling).reshape(weight.shape)
    if not bool(torch.isfinite(weight).all()):
        problem = f"{change.tensor.span.name} has NaN or infinity with the update in it"
        hint = "Merge with a smaller --output-scale, or bake with --dtype F32 or BF16."
        raise NonFiniteWeights(factors.adapter.uri, problem, hint)
    return weight


def _add(weight: Tensor, update: Update, factors: Factors) -> None:
    for number, pair in enumerate(update.factors):
        delta = _delta(pair, update, factors)
        if update.rows is not None:
            delta = delta[slice(*update.rows)]
        if update.is_swapped:
            delta = torch.cat(delta.chunk(2)[::-1])
        if update.into is not None:
            weight[slice(*update.into)] += delta
            continue
        target = weight[number] if pair.kind == "expert" and update.rows is None else weight
        # PEFT rounds these to the weight's type before it adds them; others it adds as they are.
        if pair.kind in ("embedding", "parameter", "expert"):
            delta = delta.to(weight.dtype)
        target += delta.reshape(target.shape)


def _delta(pair: SiteFactors, update: Update, factors: Factors) -> Tensor:
    """`s B A` as PEFT computes it, float32, transposed where the tensor is."""
    if pair.packed is not None:
        product = factors.experts(pair)[pair.packed.expert]
        return product.T if update.is_transposed else product
    spans = list(pair.spans())
    read = zip(spans, factors.read(*spans), strict=True)
    views = {span.name: memoryview(data) for span, data in read}
    scaling = site_scaling(pair, views, factors.adapter.uri)
    if pair.kind == "conv" and pair.expansion is None and set(pair.a_tail[1:]) != {1}:
        a = as_float32(pair.a, views[pair.a.name]).reshape(pair.rank, *pair.a_tail)
        b = as_float32(pair.b, views[pair.b.name]).reshape(
            pair.d_out, pair.rank, *(1,) * (a.ndim - 2)
        )
        convolved: Tensor = getattr(torch, _CONVOLUTIONS[a.ndim])(a.transpose(0, 1), b)
        return convolved.transpose(0, 1) * scaling
    a, b = site_matrices(pair, views)
    product = b @ a
    return (product.T if update.is_transposed else product) * scaling
