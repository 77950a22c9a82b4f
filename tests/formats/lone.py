"""Adapters that are single files, read through lego_ray.formats as a scan does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from lego_ray.formats.decode import factor_matrices, scaling_from
from lego_ray.formats.reading import read_adapter
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.site_factors import TensorSpan


def read(file: Path, *, config: bytes | None = None, base_model: str = "") -> AdapterRecord:
    """The record of a file; of a directory's if there is a configuration."""
    data = file.read_bytes()
    length = header_length(data[:LENGTH_BYTES], len(data), str(file))
    spans, metadata = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data), str(file))
    return read_adapter(
        AdapterHeaders(
            uri=str(file if config is None else file.parent),
            weights_key=file.name,
            weights=str(file),
            spans=spans,
            metadata=metadata,
            config=config,
            n_bytes=len(data),
            version="v1",
            revision="",
            adapter_id="id",
            base_model=base_model,
        )
    )


def matrices(file: Path, record: AdapterRecord) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A, B and the scaling of each site."""
    data = memoryview(file.read_bytes())

    def of(span: TensorSpan) -> memoryview:
        return data[span.start : span.end]

    return {
        site.site: (
            *factor_matrices(site, of(site.a), of(site.b)),
            site.scaling if site.alpha is None else scaling_from(site, of(site.alpha), str(file)),
        )
        for site in record.sites
    }


def updates(file: Path, record: AdapterRecord) -> dict[str, np.ndarray]:
    """The update of each site in float64, shape (d_out, d_in) with a convolution flattened."""
    return {
        site: (scaling * (b.double() @ a.double())).numpy()
        for site, (a, b, scaling) in matrices(file, record).items()
    }
