"""A safetensors file of the same bytes for the same values."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lego_ray.formats.safetensors_header import LENGTH_BYTES
from lego_ray.lazy import Tensor

# What the reference implementation aligns the tensors to.
_ALIGNMENT = 8


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Writes what `safetensors.torch.save` does, with the metadata in sorted order.

    The reference implementation keeps metadata in a hash map, so two or more entries come out in
    another order each time.

    Args:
        tensors: By name, contiguous.
        metadata: For the header.
    """
    from safetensors.torch import save  # imports torch

    data = memoryview(save(dict(tensors), metadata={"format": "pt"}))
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(bytes(data[LENGTH_BYTES:start]))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join((len(text).to_bytes(LENGTH_BYTES, "little"), text, data[start:]))
