"""An adapter about to be published, as its readers see it: keys, shapes, types and settings."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.formats.strict_json import parse_object


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An adapter about to be published.

    Attributes:
        layout: `peft`, `kohya` or `diffusers`.
        where: What to call it in errors.
        shapes: Shape of each tensor, by key.
        config: PEFT's configuration, parsed; empty for the other layouts.
        metadata: What the header of the weights says beside the tensors.
        numbers: Values of the float32 tensors that are one number, by key.
        dtypes: Element type of each tensor, by key; may lack those that are not known yet.
    """

    layout: str
    where: str
    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reader would make of an output.

    Attributes:
        text: What happens and why, without a full stop.
        is_fatal: Whether the layout's main reader raises, or drops or misreads a part. The others are
            limits that users should know.
        hint: What to do, as a full sentence; empty for the error's own advice.
    """

    text: str
    is_fatal: bool = False
    hint: str = ""


def outgoing_of(layout: str, where: str, weights: bytes, config: bytes | None) -> Outgoing:
    """Describes files as they are about to be published.

    Args:
        layout: `peft`, `kohya` or `diffusers`.
        where: What to call them in errors.
        weights: The safetensors file.
        config: `adapter_config.json`, or None where the layout has none.

    Raises:
        MalformedAdapter: If a file cannot be parsed.
    """
    length = header_length(weights[:LENGTH_BYTES], len(weights), where)
    header = weights[LENGTH_BYTES : LENGTH_BYTES + length]
    spans, metadata = parse_header(header, len(weights), where)
    return Outgoing(
        layout=layout,
        where=where,
        shapes={span.name: span.shape for span in spans},
        config=parse_object(config, where) if config is not None else {},
        metadata=metadata,
        numbers={span.name: _number(span, weights) for span in spans if _is_number(span)},
        dtypes={span.name: span.dtype for span in spans},
    )


def _is_number(span: TensorSpan) -> bool:
    return span.dtype == "F32" and span.end - span.start == struct.calcsize("<f")


def _number(span: TensorSpan, data: bytes) -> float:
    return float(struct.unpack_from("<f", data, span.start)[0])
