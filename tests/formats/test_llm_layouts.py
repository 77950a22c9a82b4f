"""Layouts of language models' trainers that are refused by name, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lego_ray.errors import UnsupportedAdapter
from lego_ray.formats.layouts import check_layout, recognize
from tests.formats.tiny_peft import read

KEYS = {
    "layers.0.attn.q_proj.lora_a.weight": "torchtune",
    "layers.0.attn.q_proj.lora_b.weight": "torchtune",
    "decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight": "megatron",
    "model.decoder.layers.0.mlp.linear_fc1.adapter.linear_out.weight": "megatron",
    "model.layers.0.self_attention.adapter_layer.lora_kqv_adapter.linear_in.weight": "megatron",
    "decoder.layers.0.self_attention.linear_qkv.adapter.adapter_q.linear_in.weight": "megatron",
    "decoder.layers.0.mlp.experts.linear_fc1.adapter.linear_out.weight0": "megatron",
    "language_model.model.layers.0.self_attn.q_proj.A": "mlx-vlm",
}


@pytest.mark.parametrize(("key", "name"), KEYS.items())
@pytest.mark.parametrize("config", [None, {"peft_type": "LORA"}], ids=["alone", "beside one"])
def test_layouts_are_refused_by_name(key: str, name: str, config: dict[str, object] | None) -> None:
    found = recognize([key])
    assert found is not None
    assert found.name == name
    with pytest.raises(
        UnsupportedAdapter, match=f"in {name}'s layout, which is not read"
    ) as caught:
        check_layout(config, [key], "w")
    assert "PEFT" in caught.value.hint


@pytest.mark.parametrize("keys", [[], ["language_model.layers.0.q_proj.A"]], ids=str)
def test_the_configuration_of_mlx_vlm_is_told_from_one_of_peft(keys: list[str]) -> None:
    with pytest.raises(UnsupportedAdapter, match="in mlx-vlm's layout") as caught:
        check_layout({"rank": 3, "alpha": 0.1, "dropout": 0.0}, keys, "w")
    assert "peft_type" not in caught.value.hint


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_tinkers_experts_on_an_axis_of_their_own_are_refused_by_name(
    shared: bool, rank: int, tmp_path: Path
) -> None:
    place = "base_model.model.model.layers.0.mlp.experts.w1"
    tensors = {
        f"{place}.lora_A.weight": torch.randn(1 if shared else 3, rank, 8),
        f"{place}.lora_B.weight": torch.randn(3, 3, rank),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 32}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedAdapter, match="as Tinker saves them") as caught:
        read(tmp_path)
    assert "build_lora_adapter" in caught.value.hint
