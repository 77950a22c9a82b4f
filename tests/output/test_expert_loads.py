"""Merges of adapters of experts, loaded by PEFT on models of transformers: its sums are the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lego_ray
from lego_ray.errors import LayoutMismatch, SiteShapeMismatch
from tests.formats.tiny_experts import (
    BASE,
    EXPERTS,
    Updates,
    as_before_019,
    edit,
    rewrite,
    targets,
    total,
    train,
    updates,
)
from tests.zoo import Site, relative_error, weights_of, write_adapter

MODELS = ["qwen3_moe", "mixtral", "gpt_oss", "llama4"]
# Float32 factors whose products PEFT forms in float64; what a method rounds on the way comes on top.
F32_ROUNDING = 32 * 2.0**-24
BF16_ROUNDING = 8 * 2.0**-9
# Singular vectors of float32 matrices.
SVD_ROUNDING = 1e-5


def merge(source: Path, output: Path, **options: Any) -> Any:
    return lego_ray.merge(source, output=output, **{"runner": "inline", **options})


def zoo(name: str, root: Path) -> Updates:
    """Three adapters of different ranks and parts, and the sum of what PEFT does with them."""
    train(name, root / "a", 1)
    pattern = {f"{EXPERTS[name]}.gate_up_proj": 1, f"{EXPERTS[name]}.down_proj": 5}
    train(name, root / "b", 2, r=3, use_rslora=True, rank_pattern=pattern)
    train(name, root / "c", 3, target_parameters=None, target_modules=["q_proj", "v_proj"])
    train(name, root / "d", 4, target_modules=[], target_parameters=targets(name)[1:])
    return total(*(updates(name, root / each) for each in "abcd"))


@pytest.mark.parametrize("name", MODELS)
def test_one_adapter_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    train(name, tmp_path / "a")
    record = merge(tmp_path / "a", tmp_path / "m", rank=2)
    wanted = updates(name, tmp_path / "a")
    assert relative_error(updates(name, tmp_path / "m"), wanted) < F32_ROUNDING
    assert record["sites"] == 7
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    place = f"model.layers.0.{EXPERTS[name]}"
    assert config["target_parameters"] == [f"{place}.down_proj", f"{place}.gate_up_proj"]
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj"]
    assert config["r"] == 2
    shapes = {k: tuple(t.shape) for k, t in load_file(tmp_path / "a" / FILE).items()}
    assert {k: tuple(t.shape) for k, t in load_file(tmp_path / "m" / FILE).items()} == shapes


FILE = "adapter_model.safetensors"


@pytest.mark.parametrize("method", ["concat", "svd", "lego"])
@pytest.mark.parametrize("name", MODELS)
def test_the_exact_sum_through_peft(name: str, method: str, tmp_path: Path) -> None:
    wanted = zoo(name, tmp_path / "zoo")
    options: dict[str, Any] = {"output_reweight": "none"} if method == "lego" else {}
    merge(tmp_path / "zoo", tmp_path / "m", rank=13, method=method, **options)
    tolerance = SVD_ROUNDING if method == "svd" else F32_ROUNDING
    assert relative_error(updates(name, tmp_path / "m"), wanted) < tolerance


@pytest.mark.parametrize("compact", [False, True])
def test_the_mean_of_several_by_weights(compact: bool, tmp_path: Path) -> None:
    wanted = zoo("qwen3_moe", tmp_path / "zoo")
    weights = dict.fromkeys("abcd", 0.25)
    merge(
        tmp_path / "zoo", tmp_path / "m", rank=13, method="concat", weights=weights, compact=compact
    )
    quarter = {key: update / 4 for key, update in wanted.items()}
    got = updates("qwen3_moe", tmp_path / "m", has_patterns=False)
    assert relative_error(got, quarter) < F32_ROUNDING


def test_a_merge_on_ray_has_the_same_bytes(tmp_path: Path, local_ray: None) -> None:
    zoo("qwen3_moe", tmp_path / "zoo")
    for method, rank in (("lego", 3), ("svd", 3), ("concat", 13)):
        made = []
        for runner in ("inline", "ray"):
            place = tmp_path / method / runner
            merge(tmp_path / "zoo", place, rank=rank, method=method, runner=runner, name="merged")
            made.append((place / FILE).read_bytes())
        assert made[0] == made[1]


def test_svd_is_the_nearest_of_its_rank_for_each_expert(tmp_path: Path) -> None:
    wanted = zoo("qwen3_moe", tmp_path / "zoo")
    merge(tmp_path / "zoo", tmp_path / "m", rank=3, method="svd")
    got = updates("qwen3_moe", tmp_path / "m")
    for key, update in wanted.items():
        u, s, v = np.linalg.svd(update, full_matrices=False)
        nearest = (u[..., :3] * s[..., None, :3]) @ v[..., :3, :]
        assert np.linalg.norm(got[key] - nearest) < SVD_ROUNDING * np.linalg.norm(update)


def test_ranks_of_a_budget_are_stored_at_the_largest_of_all_experts(tmp_path: Path) -> None:
    zoo("qwen3_moe", tmp_path / "zoo")
    record = merge(tmp_path / "zoo", tmp_path / "m", rank_budget=3, method="svd")
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    ranks = [rank for site, rank in record["ranks"].items() if ".experts." in site]
    assert len(ranks) == 6
    assert config["r"] == max(ranks)
    assert not any("experts" in key for key in config["rank_pattern"])
    for key, tensor in load_file(tmp_path / "m" / FILE).items():
        if ".experts." in key and ".lora_A." in key:
            assert tensor.shape[0] == 3 * max(ranks)
    assert updates("qwen3_moe", tmp_path / "m", has_patterns=False).keys() == {
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
    }


def test_bf16_and_a_router_among_the_parameters(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    listed = ["mlp.gate.weight", "mlp.experts.gate_up_proj"]
    for number in (1, 2):
        path = tmp_path / "zoo" / f"a{number}"
        train("qwen3_moe", path, number, target_parameters=listed)
        tensors = {key: t.to(torch.bfloat16) for key, t in load_file(path / FILE).items()}
        save_file(tensors, path / FILE, {"format": "pt"})
    wanted = total(*(updates("qwen3_moe", tmp_path / "zoo" / f"a{n}") for n in (1, 2)))
    merge(tmp_path / "zoo", tmp_path / "m", rank=4, method="concat")
    got = updates("qwen3_moe", tmp_path / "m")
    assert relative_error(got, wanted) < BF16_ROUNDING
    assert "model.layers.0.mlp.gate.weight" in got


def test_a_weight_is_one_site_whether_the_module_or_the_parameter_is_targeted(
    tmp_path: Path,
) -> None:
    train("qwen3_moe", tmp_path / "zoo" / "a", 1, target_parameters=None)
    listed = ["self_attn.q_proj.weight"]
    train("qwen3_moe", tmp_path / "zoo" / "b", 2, target_modules=[], target_parameters=listed)
    wanted = total(*(updates("qwen3_moe", tmp_path / "zoo" / each) for each in "ab"))
    record = merge(tmp_path / "zoo", tmp_path / "m", rank=4, method="concat")
    assert record["sites"] == 1
    assert relative_error(updates("qwen3_moe", tmp_path / "m"), wanted) < F32_ROUNDING


def test_old_and_new_orders_of_peft_merge(tmp_path: Path) -> None:
    wanted = zoo("qwen3_moe", tmp_path / "zoo")
    for each in "ab":
        as_before_019(tmp_path / "zoo" / each)
        edit(tmp_path / "zoo" / each, peft_version=None)
    record = merge(tmp_path / "zoo", tmp_path / "m", rank=13, method="concat")
    assert relative_error(updates("qwen3_moe", tmp_path / "m"), wanted) < F32_ROUNDING
    assert sum("the other way about" in each["note"] for each in record["notes"]) == 2


def test_experts_of_one_parameter_cut_into_several_tasks_give_the_same_bytes(
    tmp_path: Path,
) -> None:
    zoo("qwen3_moe", tmp_path / "zoo")
    whole = lego_ray.plan(tmp_path / "zoo", rank=5)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    cut = lego_ray.plan(tmp_path / "zoo", rank=5, memory_budget=budget)
    assert len(whole.tasks) == 1 < len(cut.tasks)
    assert all(task.peak_bytes <= budget for task in cut.tasks)
    merge(tmp_path / "zoo", tmp_path / "m", rank=5)
    merge(tmp_path / "zoo", tmp_path / "cut", rank=5, memory_budget=budget)
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "m")
    assert lego_ray.verify(tmp_path / "cut", memory_budget=budget)


def test_a_merge_of_experts_is_verified_and_merged_again(tmp_path: Path) -> None:
    wanted = zoo("gpt_oss", tmp_path / "zoo")
    merge(tmp_path / "zoo", tmp_path / "m", rank=13, method="concat")
    assert lego_ray.verify(tmp_path / "m")
    merge(tmp_path / "m", tmp_path / "again", rank=13, method="concat")
    assert relative_error(updates("gpt_oss", tmp_path / "again"), wanted) < F32_ROUNDING


@pytest.mark.parametrize(
    ("model", "module"),
    [
        ("qwen3_moe", "layers.0.mlp.experts.{}.down_proj"),
        # PEFT packs the experts of a file, not of a layer.
        ("qwen3_moe", "layers.1.mlp.experts.{}.down_proj"),
        # What transformers 4 calls them; PEFT puts both on one weight.
        ("mixtral", "layers.0.block_sparse_moe.experts.{}.w2"),
    ],
)
def test_experts_as_modules_do_not_mix_with_experts_in_one_parameter(
    tmp_path: Path, model: str, module: str
) -> None:
    train(model, tmp_path / "zoo" / "a", 1)
    sites = tuple(Site(f"model.{module.format(number)}", (12,), 16) for number in range(3))
    write_adapter(tmp_path / "zoo" / "b", sites=sites, base_model=BASE)
    with pytest.raises(LayoutMismatch, match="the experts of one model in two ways"):
        merge(tmp_path / "zoo", tmp_path / "m", rank=4)


def test_parameters_with_different_numbers_of_experts_are_refused(tmp_path: Path) -> None:
    """Experts 0 to 2 of both have the same shapes: only how many there are tells the models apart."""
    train("qwen3_moe", tmp_path / "zoo" / "three")
    train("qwen3_moe", tmp_path / "zoo" / "four", 2)

    def with_a_fourth(key: str, tensor: Tensor) -> Tensor:
        if ".experts." not in key:
            return tensor
        axis = 0 if ".lora_A." in key else 1
        return torch.cat([tensor, tensor.narrow(axis, 0, 2)], axis)

    rewrite(tmp_path / "zoo" / "four", with_a_fourth)
    with pytest.raises(SiteShapeMismatch, match="one of 3 experts") as caught:
        merge(tmp_path / "zoo", tmp_path / "m", rank=2)
    assert "one of 4 experts" in caught.value.problem
    merge(tmp_path / "zoo" / "three", tmp_path / "one", rank=2, updatable=True)
    with pytest.raises(SiteShapeMismatch, match="and the merge one of 3 experts"):
        lego_ray.update(tmp_path / "one", add=[tmp_path / "zoo" / "four"], output=tmp_path / "two")
    train("qwen3_moe", tmp_path / "more", 3)
    lego_ray.update(tmp_path / "one", add=[tmp_path / "more"], output=tmp_path / "three")


def test_two_orders_that_nothing_explains_are_refused_by_their_shapes(tmp_path: Path) -> None:
    train("qwen3_moe", tmp_path / "zoo" / "a", 1)
    train("qwen3_moe", tmp_path / "zoo" / "b", 2)
    as_before_019(tmp_path / "zoo" / "b")  # and says that it was saved by today's PEFT
    with pytest.raises(SiteShapeMismatch, match="disagree on this site's shape"):
        merge(tmp_path / "zoo", tmp_path / "m", rank=4)


def test_merges_of_a_library_share_one_read_of_the_experts(tmp_path: Path) -> None:
    zoo("qwen3_moe", tmp_path / "zoo")
    place = tmp_path / "library.yaml"
    place.write_text(
        f"sources: [{tmp_path / 'zoo'}]\ncatalog: {tmp_path / 'catalog'}\n"
        "merges:\n  - {name: one, rank: 3}\n  - {name: two, rank: 5}\n"
    )
    lego_ray.build(place, output=tmp_path / "out", runner="inline")
    for name, rank in (("one", 3), ("two", 5)):
        merge(tmp_path / "zoo", tmp_path / "alone" / name, rank=rank)
        assert weights_of(tmp_path / "out" / name) == weights_of(tmp_path / "alone" / name)


# Experts as modules, as models of transformers before 5 have them: places, and their names.
NUMBERED = {
    "mixtral": ("block_sparse_moe.experts", ("w1", "w3"), "w2"),
    "qwen3_moe": ("mlp.experts", ("gate_proj", "up_proj"), "down_proj"),
}


def numbered(name: str, path: Path, seed: int, rank: int, *, is_whole: bool = True) -> None:
    """An adapter of numbered experts, and of q_proj if it is whole; else of their last module alone."""
    place, wide, narrow = NUMBERED[name]
    shapes = {**dict.fromkeys(wide, (16, 12)), narrow: (12, 16)}
    sites = [
        Site(f"model.layers.0.{place}.{expert}.{module}", (d_in,), d_out)
        for expert in range(3)
        for module, (d_in, d_out) in shapes.items()
        if is_whole or module == narrow
    ]
    sites += [Site("model.layers.0.self_attn.q_proj", (16,), 16)] * is_whole
    targets = [narrow, *wide, "q_proj"] if is_whole else [narrow]
    write_adapter(path, seed=seed, rank=rank, sites=sites, base_model=BASE, target_modules=targets)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("name", NUMBERED)
def test_numbered_experts_load_where_transformers_packs_them(
    name: str, compact: bool, tmp_path: Path
) -> None:
    numbered(name, tmp_path / "zoo" / "a", 1, 4)
    numbered(name, tmp_path / "zoo" / "b", 2, 3, is_whole=False)
    wanted = total(*(updates(name, tmp_path / "zoo" / each) for each in "ab"))
    merge(tmp_path / "zoo", tmp_path / "m", rank=8, method="concat", compact=compact)
    assert relative_error(updates(name, tmp_path / "m"), wanted) < F32_ROUNDING
    shapes = {k: t.shape for k, t in load_file(tmp_path / "m" / FILE).items() if ".lora_A." in k}
    experts = {shape[0] for key, shape in shapes.items() if ".experts." in key}
    [attention] = {shape[0] for key, shape in shapes.items() if ".q_proj." in key}
    # The most that an expert has, and no more.
    assert (experts, attention) == (({7}, 4) if compact else ({8}, 8))
