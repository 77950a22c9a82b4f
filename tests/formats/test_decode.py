"""Bytes to float32: exact, without copies where none is needed, and never NaN unseen."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch

from lego_ray.errors import MalformedAdapter, NonFiniteWeights, UnsupportedAdapter
from lego_ray.formats.decode import as_float32, as_stored, check_finite, factor_matrices
from lego_ray.formats.site_factors import SiteFactors, TensorSpan

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def span(tensor: torch.Tensor, dtype: str) -> TensorSpan:
    return TensorSpan("t", dtype, tuple(tensor.shape), 0, tensor.numel() * tensor.element_size())


@pytest.mark.parametrize("dtype", TYPES)
def test_values_are_exact(dtype: str) -> None:
    tensor = torch.randn(7, 5).to(TYPES[dtype])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_float32(span(tensor, dtype), raw(tensor))
        stored = as_stored(span(tensor, dtype), raw(tensor))
    assert found.dtype is torch.float32
    assert torch.equal(found, tensor.float())
    assert torch.equal(stored, tensor)


def test_float32_is_not_copied() -> None:
    tensor = torch.randn(6, 4)
    buffer = bytearray(raw(tensor))
    found = as_float32(span(tensor, "F32"), buffer)
    buffer[:4] = raw(torch.tensor([42.0]))
    assert found[0, 0] == 42


def test_the_result_keeps_the_bytes_alive() -> None:
    tensor = torch.randn(300, 400)
    found = as_float32(span(tensor, "F32"), memoryview(raw(tensor)))
    gc.collect()
    [bytes(480_000) for _ in range(20)]
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("dtype", TYPES)
def test_unaligned_bytes_are_copied(dtype: str) -> None:
    tensor = torch.randn(6, 4).to(TYPES[dtype])
    for shift in range(1, 8):
        view = memoryview(bytes(shift) + raw(tensor))[shift:]
        found = as_float32(span(tensor, dtype), view)
        assert torch.equal(found, tensor.float())
        assert found.data_ptr() % 4 == 0


def test_a_convolution_is_flattened() -> None:
    a, b = torch.randn(2, 3, 4, 5), torch.randn(6, 2, 1, 1)
    site = SiteFactors("conv", "conv", 2, 0.5, span(a, "F32"), span(b, "F32"))
    flat_a, flat_b = factor_matrices(site, raw(a), raw(b))
    assert torch.equal(flat_a, a.flatten(1))
    assert torch.equal(flat_b, b.flatten(1))
    assert (site.d_in, site.d_out) == (60, 6)


def test_wrong_sizes_and_types_are_refused() -> None:
    tensor = torch.randn(2, 2)
    for data in (raw(tensor)[:-1], raw(tensor) + b"\0", b""):
        with pytest.raises(MalformedAdapter, match="bytes were read"):
            as_float32(span(tensor, "F32"), data)
    with pytest.raises(UnsupportedAdapter, match="F64"):
        as_float32(span(tensor, "F64"), raw(tensor))


def test_an_empty_tensor_is_empty() -> None:
    assert as_float32(TensorSpan("t", "F32", (0, 3), 0, 0), b"").shape == (0, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_name_adapter_and_tensor(value: float) -> None:
    tensor = torch.randn(4, 3)
    check_finite(tensor, "s3://zoo/a", "q.lora_A.weight")
    tensor[2, 1] = value
    with pytest.raises(NonFiniteWeights) as caught:
        check_finite(tensor, "s3://zoo/a", "q.lora_A.weight")
    assert str(caught.value).startswith("s3://zoo/a: q.lora_A.weight holds 1 values of 12")
    assert caught.value.hint
