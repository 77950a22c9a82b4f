"""A tensor's bytes into float32, as the arithmetic wants them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from lego_ray.errors import MalformedAdapter, NonFiniteWeights, UnsupportedAdapter
from lego_ray.formats.expansion import expand
from lego_ray.formats.site_factors import Packed, SiteFactors, TensorSpan
from lego_ray.lazy import Tensor, torch

# Types by their names in safetensors files, with torch's names.
DTYPES: Mapping[str, str] = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}

# Other types that factors may be stored in; nothing is written in them.
_READ: Mapping[str, str] = {
    **DTYPES,
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}

# Other types that a single number may be stored as: tools write alpha as whatever they have available.
_NUMBERS: Mapping[str, str] = {
    **_READ,
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
}


def torch_dtype(name: str) -> torch.dtype:
    """The type that safetensors calls by a name, such as BF16."""
    dtype = getattr(torch, _NUMBERS[name])
    assert isinstance(dtype, torch.dtype)
    return dtype


def as_float32(span: TensorSpan, data: bytes | bytearray | memoryview) -> Tensor:
    """Turns a tensor's bytes into float32, exactly: narrower types are widened.

    Float32 bytes that are aligned are not copied. The result then shares `data`, keeps it alive, and
    must not be written to.

    Args:
        span: The tensor.
        data: Its bytes, little-endian, `span.end - span.start` of them.

    Returns:
        float32, of the span's shape.

    Raises:
        MalformedAdapter: If there are more or fewer bytes than the shape takes.
        UnsupportedAdapter: If the type is not float32, float16, bfloat16 or float8.
    """
    _check_float(span)
    return _view(span, data).to(torch.float32)


def as_stored(span: TensorSpan, data: bytes | bytearray | memoryview) -> Tensor:
    """Turns a tensor's bytes into a copy of its own element type; else see `as_float32`."""
    _check_float(span)
    return _view(span, data).clone()


def factor_matrices(
    site: SiteFactors,
    a: bytes | bytearray | memoryview,
    b: bytes | bytearray | memoryview,
    diagonal: bytes | bytearray | memoryview = b"",
) -> tuple[Tensor, Tensor]:
    """Decodes a factor pair into matrices, `dW = scaling * B @ A`, a convolution flattened.

    Args:
        site: The pair.
        a: The bytes of A.
        b: The bytes of B.
        diagonal: The bytes of the diagonal, if the site has one.

    Returns:
        A (rank, d_in) and B (d_out, rank), float32, read-only as `as_float32` says, in memory as
        they are stored.

    Raises:
        MalformedAdapter: If a buffer does not have its tensor's size.
        UnsupportedAdapter: If a type is not float32, float16, bfloat16 or float8.
    """
    if site.packed is not None:
        _check_float(site.a)
        _check_float(site.b)
        return _expert(site.packed, site.rank, _view(site.a, a), _view(site.b, b))
    matrix_a, matrix_b = as_float32(site.a, a), as_float32(site.b, b)
    if site.transposed:
        return matrix_a.T, matrix_b.T
    matrix_b = rows_of(site, matrix_b.reshape(site.b.shape[0], site.rank))
    if site.diagonal is not None:
        matrix_a = matrix_a * as_float32(site.diagonal, diagonal)
    return matrix_a.reshape(site.rank, site.d_in), matrix_b


def site_matrices(site: SiteFactors, buffers: Mapping[str, memoryview]) -> tuple[Tensor, Tensor]:
    """The pair of a site, whichever kind of adapter its tensors are; else see `factor_matrices`.

    Args:
        site: The site.
        buffers: The bytes of each of its tensors, by name.
    """
    if site.expansion is None:
        diagonal = buffers[site.diagonal.name] if site.diagonal else b""
        return factor_matrices(site, buffers[site.a.name], buffers[site.b.name], diagonal)
    parts = {name: as_float32(span, buffers[span.name]) for name, span in site.expansion.parts}
    a, b = expand(site.expansion.form, parts)
    return a, rows_of(site, b)


def stored_tensors(
    site: SiteFactors, buffers: Mapping[str, memoryview], pair: tuple[Tensor, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a site's pair comes from, each after its name, to look for bad values in.

    Args:
        site: The site.
        buffers: The bytes of each of its tensors, by name.
        pair: Its A and B, as `site_matrices` gives them.
    """
    if site.expansion is None:
        yield site.a.name, pair[0]
        yield site.b.name, pair[1]
        return
    for _, span in site.expansion.parts:
        yield span.name, as_float32(span, buffers[span.name])


def stored_pair(site: SiteFactors, buffers: Mapping[str, memoryview]) -> tuple[Tensor, Tensor]:
    """The stored A and B, whole, of a site whose plain pair is computed with the base model.

    Args:
        site: The site.
        buffers: The bytes of each of its tensors, by name.
    """
    return site_matrices(_alone(site), buffers)


def stored_scaling(site: SiteFactors, buffers: Mapping[str, memoryview], adapter: str) -> float:
    """The scaling of that pair; else see `site_scaling`.

    Args:
        site: The site.
        buffers: The bytes of each of its tensors, by name.
        adapter: The adapter, for the error.
    """
    return site_scaling(_alone(site), buffers, adapter)


def _alone(site: SiteFactors) -> SiteFactors:
    """The stored pair of a site whose plain pair is computed with the base model."""
    derived = site.derived
    if derived is None:
        return site
    return replace(
        site,
        rank=derived.rank,
        scaling=derived.scaling,
        alpha=derived.alpha,
        scalar=derived.scalar,
        rows=None,
        is_swapped=False,
        grid=None,
        derived=None,
    )


def rows_of(site: SiteFactors, b: Tensor) -> Tensor:
    """The rows of B that are the site's, in the order of the merge.

    Args:
        site: The site.
        b: B as it is stored, shape (rows, rank).
    """
    if site.grid is not None:
        groups, parts = site.grid
        b = b.reshape(groups, parts, -1, b.shape[1]).transpose(0, 1).reshape(b.shape)
    if site.rows is not None:
        b = b[site.rows[0] : site.rows[1]]
    return torch.cat(b.chunk(2)[::-1]) if site.is_swapped else b


def _expert(packed: Packed, rank: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One expert's pair in float32, out of tensors of shape (E r, d) and (d', E r)."""
    at, experts = packed.expert, packed.experts
    mine = slice(at * rank, (at + 1) * rank)
    one = a[mine].to(torch.float32)
    two = (b[:, mine] if packed.is_grouped else b[:, at::experts]).to(torch.float32)
    return (two.T, one.T) if packed.is_swapped else (one, two)


def scaling_from(site: SiteFactors, alpha: bytes | bytearray | memoryview, adapter: str) -> float:
    """The scaling of a site whose alpha is a tensor, `s = alpha / r`.

    Args:
        site: The site.
        alpha: The bytes of its alpha.
        adapter: The adapter, for the error.

    Raises:
        MalformedAdapter: If alpha is 0: some readers take the rank instead, so what was trained is
            unknown; or if a configuration gives another scaling.
        NonFiniteWeights: If it is NaN or infinite.
        UnsupportedAdapter: If it is not a single number of a known type.
    """
    span = site.alpha
    if span is None:
        return site.scaling
    value = _number(span, alpha, adapter)
    if value == 0:
        hint = "Set it to the alpha of training, or remove it if that was the rank."
        raise MalformedAdapter(adapter, f"{span.name} is 0, which readers take in two ways", hint)
    if site.stated:
        _check_stated(site, span, value, adapter)
    return value / site.divisor


def _check_stated(site: SiteFactors, span: TensorSpan, alpha: float, adapter: str) -> None:
    """Passes an alpha that is what a configuration says, as far as its type can hold that."""
    stated = site.stated * site.divisor
    held = float(torch.tensor(stated, dtype=torch.float64).to(torch_dtype(span.dtype)))
    if not math.isclose(alpha, held, rel_tol=1e-6):
        problem = (
            f"{span.name} is {alpha:g}, and the configuration in the header or beside the file scales "
            f"{site.site} as an alpha of {stated:g} does"
        )
        hint = "Remove the one that training did not use, or save the adapter again."
        raise MalformedAdapter(adapter, problem, hint)


def site_scaling(site: SiteFactors, buffers: Mapping[str, memoryview], adapter: str) -> float:
    """The scaling of a site, with the numbers of its tensors; else see `scaling_from`.

    Args:
        site: The site.
        buffers: The bytes of each of its tensors, by name.
        adapter: The adapter, for the error.

    Raises:
        MalformedAdapter: Also if the scalar is 0, so that nothing was trained.
    """
    scaling = scaling_from(site, buffers[site.alpha.name] if site.alpha else b"", adapter)
    if site.scalar is None:
        return scaling
    value = _number(site.scalar, buffers[site.scalar.name], adapter)
    if value == 0:
        problem = f"{site.scalar.name} is 0, so the update of {site.site} is zero"
        raise MalformedAdapter(adapter, problem, "It was not trained: leave the adapter out.")
    return scaling * value


def _number(span: TensorSpan, data: bytes | bytearray | memoryview, adapter: str) -> float:
    """The value of a tensor that is one number."""
    if span.dtype not in _NUMBERS or math.prod(span.shape) != 1:
        problem = f"{span.name} is {span.dtype} {list(span.shape)}, expected one number"
        raise UnsupportedAdapter(adapter, problem, "Save the adapter again.")
    value = float(_view(span, data).item())
    if not math.isfinite(value):
        hint = "The training run has diverged, or the file is damaged: leave the adapter out."
        raise NonFiniteWeights(adapter, f"{span.name} is {value}", hint)
    return value


def check_finite(tensor: Tensor, adapter: str, name: str) -> None:
    """Passes a tensor without NaN and infinity.

    Args:
        tensor: Any shape, floating point.
        adapter: The adapter, for the error.
        name: The tensor's key, for the error.

    Raises:
        NonFiniteWeights: Otherwise.
    """
    if tensor.numel() == 0:
        return
    low, high = torch.aminmax(
        tensor
    )  # NaN goes through, and nothing as large as the tensor is made
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        count = int((~torch.isfinite(tensor)).sum())
        problem = f"{name} holds {count} values of {tensor.numel()} that are NaN or infinite"
        hint = (
            "The training run has diverged: take an earlier checkpoint, or leave the adapter out."
        )
        raise NonFiniteWeights(adapter, problem, hint)


def _check_float(span: TensorSpan) -> None:
    if span.dtype not in _READ:
        problem = f"it is {span.dtype}, expected one of {', '.join(_READ)}"
        raise UnsupportedAdapter(span.name, problem, "Save the adapter again as float32.")


def _view(span: TensorSpan, data: bytes | bytearray | memoryview) -> Tensor:
    dtype = torch_dtype(span.dtype)
    size = dtype.itemsize * math.prod(span.shape)
    view = memoryview(data).cast("B")
    if len(view) != size:
        problem = f"{len(view)} bytes were read, its shape {list(span.shape)} takes {size}"
        raise MalformedAdapter(span.name, problem, "The file is damaged: download it again.")
    if size == 0:
        return torch.empty(span.shape, dtype=dtype)
    address = _address(view)
    if address % dtype.itemsize:
        view = memoryview(bytearray(view))
        address = _address(view)
    # torch.frombuffer warns of every read-only buffer, and `warnings` cannot be silenced safely in a
    # thread. A ctypes array over the same memory has no such flag; it holds the owner by attribute.
    shared = (ctypes.c_char * size).from_address(address)
    shared.owner = view  # type: ignore[attr-defined]
    return torch.frombuffer(shared, dtype=dtype).reshape(span.shape)


def _address(view: memoryview) -> int:
    """Address of a buffer's first byte; numpy gives it for read-only buffers too."""
    import numpy as np

    return int(np.frombuffer(view, dtype=np.uint8).ctypes.data)
