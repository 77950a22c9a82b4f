"""LoHa, LoKr and CP-decomposed LoCon merge as the plain LoRA that is the same update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lego_ray
from tests.kinds_zoo import KINDS, SHAPES, kind_file
from tests.lone_zoo import load, total, updates_of, write
from tests.zoo import relative_error

# float32 products of a few factors, and one more rounding when they are stored.
F32_ROUNDING = 1e-6
RANK = 64


def merge(zoo: Path, output: Path, **options: Any) -> lego_ray.MergeRecord:
    settings: dict[str, Any] = {"method": "concat", "rank": RANK, "runner": "inline"}
    return lego_ray.merge(
        zoo, **{**settings, "dtype": "F32", "base_model": "org/base", **options}, output=output
    )


@pytest.mark.parametrize("method", ["concat", "svd"])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_kind_is_its_own_update_and_adds_up_with_a_plain_lora(
    kind: str, method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    alphas = (None, torch.tensor(3.0), torch.tensor([1.5], dtype=torch.bfloat16))
    wanted = []
    for at, alpha in enumerate(alphas):
        tensors, updates = kind_file(kind, seed=at, dtype=dtype, alpha=alpha)
        write(tmp_path / f"zoo/{at}.safetensors", tensors)
        wanted.append(updates)
    write(tmp_path / "zoo/plain.safetensors", kind_file("plain", seed=9)[0])
    wanted.append(kind_file("plain", seed=9)[1])
    rank = RANK if method == "concat" else 12
    merge(tmp_path / "zoo", tmp_path / "m", method=method, rank=rank)
    merged = load(tmp_path / "m")
    assert relative_error(updates_of(merged), total(*wanted)) < F32_ROUNDING
    for module, shape in SHAPES.values():
        if f"{module}.lora_down.weight" in merged:
            assert merged[f"{module}.lora_down.weight"].shape[1:] == shape[1:]
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]
