"""Adapters of experts, as PEFT saves them and as others did: each expert's update against PEFT's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lego_ray.errors import RankMismatch, UnsupportedAdapter
from lego_ray.formats.record import AdapterRecord
from tests.formats.tiny_experts import (
    EXPERTS,
    Updates,
    as_before_019,
    by_site,
    edit,
    rewrite,
    targets,
    train,
    updates,
)
from tests.formats.tiny_peft import our_deltas, read
from tests.zoo import relative_error

# PEFT's weights and our products of factors, each rounded to float32 once.
ROUNDING = 8 * 2.0**-24
MODELS = ["qwen3_moe", "mixtral", "gpt_oss", "llama4"]


def ours(path: Path, record: AdapterRecord) -> Updates:
    return {site: delta.double().numpy() for site, delta in our_deltas(path, record).items()}


@pytest.mark.parametrize("name", MODELS)
def test_each_expert_has_the_update_that_peft_gives_it(name: str, tmp_path: Path) -> None:
    train(name, tmp_path / "a")
    record = read(tmp_path / "a")
    wanted = by_site(name, updates(name, tmp_path / "a"))
    assert len(wanted) == 2 * 3 + 1
    assert relative_error(ours(tmp_path / "a", record), wanted) < ROUNDING
    assert {site.kind for site in record.sites} == {"expert", "linear"}
    assert {site.rank for site in record.sites} == {2}
    assert record.notes == ()


OPTIONS: list[dict[str, Any]] = [
    {"target_modules": []},
    {"use_rslora": True},
    {"rank_pattern": {"mlp.experts.gate_up_proj": 3, "q_proj": 1}, "lora_alpha": 5},
    {"alpha_pattern": {"experts.down_proj": 20}},
    {"target_parameters": ["mlp.experts.down_proj"]},
    {"target_parameters": ["gate_up_proj", "down_proj"]},
    {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.gate.weight"]},
    {"target_parameters": ["gate.weight", "down_proj"], "rank_pattern": {".*.down_proj": 4}},
    {"target_parameters": ["model.layers.0.self_attn.k_proj.weight"]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_patterns_and_targets_are_read_by_pefts_rules(
    options: dict[str, Any], tmp_path: Path
) -> None:
    train("qwen3_moe", tmp_path / "a", **options)
    record = read(tmp_path / "a")
    got = ours(tmp_path / "a", record)
    wanted = by_site("qwen3_moe", updates("qwen3_moe", tmp_path / "a"))
    assert relative_error({k.removesuffix(".weight"): v for k, v in got.items()}, wanted) < ROUNDING


def test_the_weight_of_a_module_keeps_its_name_as_a_parameter(tmp_path: Path) -> None:
    train("qwen3_moe", tmp_path / "a", target_parameters=["mlp.gate.weight"])
    [router] = [site for site in read(tmp_path / "a").sites if site.kind == "parameter"]
    assert router.site == "model.layers.0.mlp.gate.weight"
    assert (router.d_in, router.d_out, router.rank) == (16, 3, 2)


@pytest.mark.parametrize("version", [None, "0.18.1", "0.19.0", "0.19.1.dev0@abc"])
@pytest.mark.parametrize("which", [["gate_up_proj", "down_proj"], ["down_proj"], ["gate_up_proj"]])
def test_the_order_of_older_peft_is_told_by_the_shapes(
    version: str | None, which: list[str], tmp_path: Path
) -> None:
    train("qwen3_moe", tmp_path / "a", target_parameters=[f"mlp.experts.{name}" for name in which])
    wanted = ours(tmp_path / "a", read(tmp_path / "a"))
    as_before_019(tmp_path / "a")
    edit(tmp_path / "a", peft_version=version)
    record = read(tmp_path / "a")
    assert relative_error(ours(tmp_path / "a", record), wanted) == 0
    [note] = record.notes
    assert "A and B of its experts the other way about" in note
    assert (version or "a PEFT that did not give its version") in note


def test_the_order_of_older_peft_for_transposed_parameters_is_todays(tmp_path: Path) -> None:
    train("gpt_oss", tmp_path / "a")
    wanted = ours(tmp_path / "a", read(tmp_path / "a"))
    edit(tmp_path / "a", peft_version="0.17.0")
    record = read(tmp_path / "a")
    assert relative_error(ours(tmp_path / "a", record), wanted) == 0
    assert record.notes == ()


def test_llama_4_of_older_peft_is_told_by_the_name_of_its_base(tmp_path: Path) -> None:
    train("llama4", tmp_path / "a")
    wanted = ours(tmp_path / "a", read(tmp_path / "a"))
    as_before_019(tmp_path / "a")
    edit(tmp_path / "a", peft_version="0.18.1")
    with pytest.raises(UnsupportedAdapter, match="neither shapes nor the name of the base"):
        read(tmp_path / "a")
    edit(tmp_path / "a", base_model_name_or_path="meta-llama/Llama-4-Scout-17B-16E")
    assert relative_error(ours(tmp_path / "a", read(tmp_path / "a")), wanted) == 0


def test_an_older_adapter_whose_shapes_show_no_order_is_refused_with_what_to_set(
    tmp_path: Path,
) -> None:
    train(
        "qwen3_moe", tmp_path / "a", target_modules=[], target_parameters=["mlp.experts.down_proj"]
    )
    edit(tmp_path / "a", peft_version="0.18.0")
    with pytest.raises(UnsupportedAdapter, match=r'"peft_version": "0.19.1"'):
        read(tmp_path / "a")


def grouped(key: str, tensor: Tensor) -> Tensor:
    """B of experts with its columns in Unsloth's order; E is 3."""
    if ".experts." not in key or ".lora_B." not in key:
        return tensor
    rows, columns = tensor.shape
    return tensor.reshape(rows, columns // 3, 3).transpose(1, 2).reshape(rows, columns)


@pytest.mark.parametrize(
    "marks",
    [
        {"lora_B_layout": "grouped_by_expert"},
        {
            "lora_B_layout": "rank_major",
            "unsloth_fused_expert_lora": {
                "lora_A_layout": "grouped_by_expert",
                "parameters": {
                    name: {"lora_B_layout": "grouped_by_expert", "num_experts": 3}
                    for name in ("gate_up_proj", "down_proj")
                },
            },
        },
    ],
    ids=["whole", "by parameter"],
)
def test_unsloths_own_order_is_read_where_its_marks_name_it(
    marks: dict[str, Any], tmp_path: Path
) -> None:
    train("qwen3_moe", tmp_path / "a")
    wanted = ours(tmp_path / "a", read(tmp_path / "a"))
    rewrite(tmp_path / "a", grouped)
    edit(tmp_path / "a", auto_mapping={"unsloth_fixed": True}, **marks)
    record = read(tmp_path / "a")
    assert relative_error(ours(tmp_path / "a", record), wanted) == 0
    assert "grouped_by_expert" in record.notes[0]


def test_unsloths_order_without_a_mark_is_refused_with_both_named(tmp_path: Path) -> None:
    train("qwen3_moe", tmp_path / "a")
    edit(tmp_path / "a", auto_mapping={"unsloth_fixed": True})
    with pytest.raises(UnsupportedAdapter, match=r"before unsloth-zoo 2026\.9") as caught:
        read(tmp_path / "a")
    assert "lora_B_layout" in caught.value.hint
    assert "rank_major" in caught.value.hint
    edit(tmp_path / "a", lora_B_layout="by_moonlight")
    with pytest.raises(UnsupportedAdapter, match="by_moonlight"):
        read(tmp_path / "a")


def test_at_rank_one_both_orders_are_one(tmp_path: Path) -> None:
    train("qwen3_moe", tmp_path / "a", r=1)
    edit(tmp_path / "a", auto_mapping={"unsloth_fixed": True})
    wanted = by_site("qwen3_moe", updates("qwen3_moe", tmp_path / "a"))
    assert relative_error(ours(tmp_path / "a", read(tmp_path / "a")), wanted) < ROUNDING


def test_factors_nested_the_other_way_about_are_told_by_their_shapes(tmp_path: Path) -> None:
    train("qwen3_moe", tmp_path / "a")
    wanted = ours(tmp_path / "a", read(tmp_path / "a"))
    file = tmp_path / "a" / "adapter_model.safetensors"
    turned = {}
    for key, tensor in load_file(file).items():
        if ".experts.base_layer." in key:
            key = key.replace(".experts.base_layer.", ".experts.")
        elif ".experts." in key:
            key = key.replace(".experts.", ".experts.base_layer.")
        turned[key] = tensor
    save_file(turned, file, {"format": "pt"})
    assert relative_error(ours(tmp_path / "a", read(tmp_path / "a")), wanted) == 0


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (
            [*targets("qwen3_moe"), "mlp.experts.bias"],
            "which belongs to which cannot be determined",
        ),
        (targets("qwen3_moe")[:1], "the file has 2 pairs of factors there"),
        (["mlp.experts.one", "mlp.experts.two"], "which belongs to which cannot be determined"),
    ],
)
def test_parameters_that_cannot_be_told_apart_are_refused(
    listed: list[str], said: str, tmp_path: Path
) -> None:
    train("qwen3_moe", tmp_path / "a")
    edit(tmp_path / "a", target_parameters=listed)
    with pytest.raises(UnsupportedAdapter, match=said):
        read(tmp_path / "a")


def test_rows_that_are_no_multiple_of_the_rank_are_refused(tmp_path: Path) -> None:
    train("qwen3_moe", tmp_path / "a")
    edit(tmp_path / "a", rank_pattern={"experts.gate_up_proj": 4})
    with pytest.raises(RankMismatch, match="of which 6 rows of A are not a multiple"):
        read(tmp_path / "a")


def test_sites_are_named_by_parameter_and_expert(tmp_path: Path) -> None:
    train("llama4", tmp_path / "a", target_modules=[])
    place = f"model.layers.0.{EXPERTS['llama4']}"
    assert [site.site for site in read(tmp_path / "a").sites] == [
        *(f"{place}.down_proj.{number}" for number in range(3)),
        *(f"{place}.gate_up_proj.{number}" for number in range(3)),
    ]


def test_experts_share_the_bytes_of_their_tensors(tmp_path: Path) -> None:
    train("qwen3_moe", tmp_path / "a", target_modules=[])
    record = read(tmp_path / "a")
    sizes = {span: span.end - span.start for site in record.sites for span in site.spans()}
    assert sum(site.read_bytes for site in record.sites) == sum(sizes.values())
    assert record.n_params == sum(sizes.values()) // torch.float32.itemsize
