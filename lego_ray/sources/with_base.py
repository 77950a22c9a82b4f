"""Puts the base model's weights into the records of adapters whose update is computed with them.

Reads headers of the base model, and of each weight that is needed its first and last bytes: they tell
the base model from others, so they are part of the id of such an adapter.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lego_ray.errors import UnsupportedAdapter
from lego_ray.formats.base_weights import PLAIN_DTYPES
from lego_ray.formats.identity import on_base
from lego_ray.formats.record import AdapterRecord, Refused
from lego_ray.formats.site_factors import BaseWeight, Derived, SiteFactors
from lego_ray.sources.base_layers import BaseLayers, Layer, rows_in, shape_of
from lego_ray.sources.base_model import BaseModel, BaseTensor, read_base
from lego_ray.storage.base import ByteRange
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri

# Bytes at each end of a weight that its identity is taken of: a training run changes all of a weight.
_SAMPLE = 32 << 10
_SCHEME = b"lego-ray base weight 1"


class WithBase:
    """A base model, read when the first adapter needs it; one for each scan.

    Args:
        base: Where it is; empty for nowhere, so that no adapter can need it.
    """

    def __init__(self, base: str) -> None:
        self._place: Place | None = parse_uri(base) if base else None
        self._base: BaseModel | None = None
        self._digests: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()

    @property
    def is_given(self) -> bool:
        """Whether there is one."""
        return self._place is not None

    @property
    def bytes_read(self) -> int:
        """Bytes fetched."""
        return self._base.store.bytes_read if self._base else 0

    @property
    def requests(self) -> int:
        """Requests made."""
        return self._base.store.requests if self._base else 0

    def warnings(self) -> Iterator[str]:
        """What to say of a base model that no adapter of the scan needed, without a full stop."""
        if self._place is not None and self._base is None:
            yield "no adapter needs the base model that --base names, so it is not used"

    def resolved(self, adapter: AdapterRecord | Refused | None) -> AdapterRecord | Refused | None:
        """An adapter with the weights that it needs; or its refusal, if the base model has not these.

        Args:
            adapter: What a scan found; returned as it is if it needs no base model.

        Raises:
            UnusableBase: If the base model is none that is read, such as a quantized one.
            SourceChanged: If a file of it changes meanwhile.
            StorageError: If it cannot be read.
        """
        if not isinstance(adapter, AdapterRecord) or not needs_base(adapter):
            return adapter
        assert self._place is not None  # or the adapter had been refused
        with self._lock:
            if self._base is None:
                self._base = read_base(self._place)
            try:
                return self._with_weights(adapter, self._base)
            except UnsupportedAdapter as error:
                return Refused(adapter.uri, "refused", f"{type(error).__name__}: {error}")

    def _with_weights(self, adapter: AdapterRecord, base: BaseModel) -> AdapterRecord:
        layers = BaseLayers(
            base,
            [site.site for site in adapter.sites],
            fan_in_fan_out=bool(adapter.config.get("fan_in_fan_out")),
        )
        sites: list[SiteFactors] = []
        found: list[tuple[str, BaseTensor]] = []
        for site in adapter.sites:
            if site.derived is None or not site.derived.needs_base:
                sites.append(site)
                continue
            layer, weights = _weights(adapter, base, layers, site)
            found += [(site.site, tensor) for tensor in layer.tensors]
            derived: Derived = replace(site.derived, weights=weights)
            sites.append(replace(site, derived=derived))
        identity = self._identity(found, base)
        return replace(
            adapter, sites=tuple(sites), adapter_id=on_base(adapter.adapter_id, identity)
        )

    def _identity(self, found: Sequence[tuple[str, BaseTensor]], base: BaseModel) -> str:
        """Hex sha256 over the weights of some sites: what they are and samples of what they hold."""
        missing: dict[str, list[BaseTensor]] = {}
        once = {(tensor.file.key, tensor.span.name): tensor for _, tensor in found}
        for tensor in once.values():
            if (tensor.file.key, tensor.span.name) not in self._digests:
                missing.setdefault(tensor.file.key, []).append(tensor)
        for key, tensors in missing.items():
            windows = [window for tensor in tensors for window in _windows(tensor)]
            read = base.store.read_ranges(key, windows, tensors[0].file.version or None)
            for number, tensor in enumerate(tensors):
                span = tensor.span
                digest = hashlib.sha256(f"{span.dtype} {list(span.shape)}\n".encode())
                for data in read[2 * number : 2 * number + 2]:
                    digest.update(data)
                self._digests[key, span.name] = digest.digest()
        whole = hashlib.sha256(_SCHEME)
        for site, tensor in found:  # sorted by site, as the adapter's are
            whole.update(f"\n{site} ".encode())
            whole.update(self._digests[tensor.file.key, tensor.span.name])
        return whole.hexdigest()


def needs_base(adapter: AdapterRecord) -> bool:
    """Whether an adapter's update is computed with its base model."""
    parts = (each for site in adapter.sites for each in site.parts())
    return any(each.derived is not None and each.derived.needs_base for each in parts)


def _windows(tensor: BaseTensor) -> list[ByteRange]:
    """The first and the last bytes of a tensor; of a small one all, in two parts."""
    start, end = tensor.span.start, tensor.span.end
    first = min(end, start + _SAMPLE)
    return [ByteRange(start, first), ByteRange(max(first, end - _SAMPLE), end)]


def _weights(
    adapter: AdapterRecord, base: BaseModel, layers: BaseLayers, site: SiteFactors
) -> tuple[Layer, tuple[BaseWeight, ...]]:
    layer = layers.find(site.site)
    if layer is None:
        problem = f"the base model {base.uri} has no weight of {site.site}, which the adapter needs"
        raise UnsupportedAdapter(adapter.uri, problem, _ITS_OWN)
    is_transposed = layers.is_transposed(layer, site)
    names = " and ".join(tensor.span.name for tensor in layer.tensors)
    if is_transposed is None:
        has = "has" if len(layer.tensors) == 1 else "together have"
        problem = (
            f"{names} of the base model {base.uri} {has} shape {list(shape_of(layer))}, and the "
            f"adapter's factors of {site.site} are for {[site.d_out, *site.a_tail]}"
        )
        raise UnsupportedAdapter(adapter.uri, problem, _ITS_OWN)
    for tensor in layer.tensors:
        if tensor.span.dtype not in PLAIN_DTYPES:
            problem = (
                f"{tensor.span.name} of the base model {base.uri} is {tensor.span.dtype}, expected "
                f"one of {', '.join(PLAIN_DTYPES)}"
            )
            raise UnsupportedAdapter(adapter.uri, problem, _ITS_OWN)
    return layer, tuple(
        BaseWeight(
            folder=base.folder,
            revision=base.store.revision,
            key=tensor.file.key,
            version=tensor.file.version,
            span=tensor.span if layer.rows is None else rows_in(tensor.span, layer.rows),
            is_transposed=is_transposed,
            is_swapped=layer.is_swapped,
            changed_at=tensor.file.changed_at,
        )
        for tensor in layer.tensors
    )


_ITS_OWN = (
    "Give the model that it was trained on with --base, or leave the adapter out with --exclude."
)
