"""Differences of weights, biases and norms in single files: summed, averaged, or kept of one adapter."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_pipeline as loaders
from torch import Tensor

import lego_ray
from lego_ray.errors import (
    InvalidOption,
    LayoutMismatch,
    NoAdaptersFound,
    SiteShapeMismatch,
    UnreadableOutput,
)
from lego_ray.planning.options import DEFAULT_MEMORY_BUDGET
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.sources.headers import scan_sources
from tests.difference_zoo import patches_of, random, sum_of
from tests.lone_zoo import load, tensors_of, write
from tests.merging import test_resume as runs
from tests.merging.runs import kept
from tests.merging.test_two_namings import FLUX, FLUX_THERE, H, dotted, flat
from tests.output.test_diffusers_loads import F32_ROUNDING

Q, NORM = "diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.self_attn.norm_q"
MODULES = [Q, "diffusion_model.blocks.0.ffn.0"]
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"


def merge(sources: Any, output: Path, **options: Any) -> dict[str, Any]:
    given = {"rank": 16, "method": "concat", "runner": "inline", "base_model": "base"}
    return lego_ray.merge(sources, output=output, **{**given, "full_weights": "sum", **options})


def parts_of(count: int = 3) -> list[dict[str, Tensor]]:
    """Files as lightx2v writes them; the last has no difference of the norm."""
    parts = []
    for seed in range(1, count + 1):
        more = {f"{m}.diff_b": random(10 * seed + n, 8) for n, m in enumerate(MODULES)}
        if seed < count or count == 1:
            more[f"{NORM}.diff"] = random(100 * seed, 8)
        parts.append({**tensors_of(MODULES, ends="down_up", alpha=1.0, seed=seed), **more})
    return parts


def write_zoo(root: Path, parts: list[dict[str, Tensor]]) -> Path:
    for number, part in enumerate(parts):
        write(root / f"{number}.safetensors", part)
    return root


def close(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    assert got.keys() == wanted.keys()
    norm = sum(float(value.square().sum()) for value in wanted.values())
    apart = sum(float((got[key] - wanted[key]).square().sum()) for key in wanted)
    return apart < F32_ROUNDING**2 * norm


def test_summed_comfyui_adds_what_the_adapters_add_together(tmp_path: Path) -> None:
    parts = parts_of()
    record = merge(write_zoo(tmp_path / "zoo", parts), tmp_path / "m")
    merged = load(tmp_path / "m")
    assert close(patches_of(merged, 0.5), sum_of(*(patches_of(part, 0.5) for part in parts)))
    for key in (f"{Q}.diff_b", f"{NORM}.diff"):
        total = torch.stack([part[key].double() for part in parts if key in part]).sum(dim=0)
        assert torch.equal(merged[key], total.float())
    [said] = [w for w in record["warnings"] if "the sum over" in w]
    assert "3 differences" in said
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_diffusers_reads_the_summed_biases_of_wan(tmp_path: Path) -> None:
    block = "diffusion_model.blocks.0."
    modules = [f"{block}{a}_attn.{p}" for a in ("self", "cross") for p in "qkvo"]
    modules += [f"{block}ffn.{n}" for n in (0, 2)]
    parts = [
        {
            **tensors_of(modules, ends="down_up", alpha=1.0, seed=seed),
            **{f"{m}.diff_b": random(100 * seed + n, 8) for n, m in enumerate(modules)},
            f"{NORM}.diff": random(seed, 8),
        }
        for seed in (1, 2)
    ]
    merge(write_zoo(tmp_path / "zoo", parts), tmp_path / "m")
    loader: Any = loaders.WanLoraLoaderMixin
    state = loader.lora_state_dict(load(tmp_path / "m"))
    before = [loader.lora_state_dict(dict(part)) for part in parts]
    biases = [key for key in state if key.endswith(".lora_B.bias")]
    assert len(biases) == len(modules)
    for key in biases:
        assert torch.equal(state[key], before[0][key] + before[1][key])


def test_averaged_they_are_the_mean_of_those_that_have_one(tmp_path: Path) -> None:
    parts = parts_of()
    weights = {"0": 2.0, "2": -0.5}
    merge(
        write_zoo(tmp_path / "zoo", parts), tmp_path / "m", full_weights="average", weights=weights
    )
    merged = load(tmp_path / "m")
    one, two, three = (part[f"{Q}.diff_b"].double() for part in parts)
    assert torch.equal(merged[f"{Q}.diff_b"], ((2 * one + two - 0.5 * three) / 3).float())
    one, two = (part[f"{NORM}.diff"].double() for part in parts[:2])
    assert torch.equal(merged[f"{NORM}.diff"], ((2 * one + two) / 2).float())


def test_scales_of_the_output_and_of_sites_count(tmp_path: Path) -> None:
    parts = parts_of(2)
    zoo = write_zoo(tmp_path / "zoo", parts)
    merge(zoo, tmp_path / "m", output_scale=0.5, site_scales={"norm_q": 3.0, "q": 4.0})
    total = sum_of(*(patches_of(part) for part in parts))
    factors = {f"{NORM}.weight": 1.5, f"{Q}.bias": 2.0, f"{Q}.weight": 2.0}
    wanted = {key: factors.get(key, 0.5) * value for key, value in total.items()}
    assert close(patches_of(load(tmp_path / "m")), wanted)
    with pytest.raises(InvalidOption, match="no site is called norm_k"):
        merge(zoo, tmp_path / "n", site_scales={"norm_k": 3.0})


def test_rules_of_the_output_scale_are_those_of_sites(tmp_path: Path) -> None:
    parts = parts_of(2)
    zoo = write_zoo(tmp_path / "zoo", parts)
    one, two = (part[f"{Q}.diff_b"].double() for part in parts)
    merge(zoo, tmp_path / "fit", full_weights="average", output_scale="sum-fit")
    assert torch.allclose(load(tmp_path / "fit")[f"{Q}.diff_b"].double(), one + two, rtol=1e-6)
    merge(zoo, tmp_path / "norm", output_scale="source-norm*2")
    norm = load(tmp_path / "norm")[f"{Q}.diff_b"].double().norm()
    mean = ((one.norm() ** 2 + two.norm() ** 2) / 2).sqrt()
    assert float(norm) == pytest.approx(2 * float(mean), rel=1e-6)
    merge(zoo, tmp_path / "adaptive", full_weights="sum", output_scale="adaptive")
    norm = load(tmp_path / "adaptive")[f"{Q}.diff_b"].double().norm()
    # The norm that the sum would have at T_eff, were both of their root mean square.
    count = min(max(float(4 * mean**2 / (one + two).norm() ** 2), 1.0), 2.0)
    assert 1 < count < 2
    assert float(norm) == pytest.approx(min(count**0.5, 1.5) * float(mean), rel=1e-5)


def test_kept_they_are_those_of_the_file_named(tmp_path: Path) -> None:
    parts = parts_of(2)
    parts[1] = {k: t.to(torch.float16) if ".diff" in k else t for k, t in parts[1].items()}
    zoo = write_zoo(tmp_path / "zoo", parts)
    record = merge(zoo, tmp_path / "m", full_weights="keep:1.safetensors", weights={"1": 3.0})
    merged = load(tmp_path / "m")
    differences = [key for key in merged if ".diff" in key]
    assert len(differences) == 2
    assert all(torch.equal(merged[key], parts[1][key]) for key in differences)
    assert any("those of one adapter" in warning for warning in record["warnings"])
    merge(zoo, tmp_path / "short", full_weights="keep:1", weights={"1": 3.0})
    assert {k: t.tolist() for k, t in load(tmp_path / "short").items()} == {
        k: t.tolist() for k, t in merged.items()
    }
    [other] = [
        each for each in record["notes"] if "left out by --full-weights keep" in each["note"]
    ]
    assert Path(other["adapter"]).name == "0.safetensors"
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["ok"]


def test_dropped_they_are_in_the_notes_and_not_in_the_file(tmp_path: Path) -> None:
    record = merge(write_zoo(tmp_path / "zoo", parts_of()), tmp_path / "m", full_weights="drop")
    assert not [key for key in load(tmp_path / "m") if ".diff" in key]
    dropped = [each for each in record["notes"] if "were dropped" in each["note"]]
    assert len(dropped) == 3
    plan = lego_ray.plan(tmp_path / "zoo", rank=4, full_weights="drop", base_model="base")
    assert [n["note"] for n in plan.as_json()["notes"]] == [
        each["note"] for each in record["notes"]
    ]


def test_the_names_and_the_order_of_files_change_no_bit(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", parts_of(4))
    for old, new in (("0", "z"), ("1", "c"), ("3", "a")):
        (tmp_path / "other").mkdir(exist_ok=True)
        shutil.copy(zoo / f"{old}.safetensors", tmp_path / f"other/{new}.safetensors")
    shutil.copy(zoo / "2.safetensors", tmp_path / "other/0.safetensors")
    merge(zoo, tmp_path / "m", name="x")
    merge(tmp_path / "other", tmp_path / "n", name="x")
    one, two = ((tmp_path / f / "x.safetensors").read_bytes() for f in "mn")
    assert one == two


def test_any_cut_into_tasks_and_shards_gives_the_same_bits(tmp_path: Path) -> None:
    wide = {"diffusion_model.blocks.0.ffn.0": (96, 64), "diffusion_model.blocks.1.ffn.0": (64, 32)}
    parts = []
    for seed in range(12):
        more = {f"{m}.diff_b": random(seed, d_out) for m, (_, d_out) in wide.items()}
        parts.append({**tensors_of(wide, rank=30 + seed, seed=seed), **more})
    zoo = write_zoo(tmp_path / "zoo", parts)
    recipe = Recipe(name="x", rank=4, full_weights="sum", base_model="b")
    inventory = scan_sources([str(zoo)], full_weights="sum").inventory
    largest = make_plan(recipe, inventory).peak_bytes
    budgets: dict[int, int] = {}  # by the number of shards of the first task
    for part in range(200, 0, -1):
        budget = WORKER_BYTES + (largest - WORKER_BYTES) * part // 200
        try:
            plan = make_plan(recipe, inventory, memory_budget=budget)
        except InvalidOption:
            break
        assert plan.peak_bytes <= budget
        budgets.setdefault(len(plan.tasks[0].shards), budget)
    assert max(budgets) > 1
    options: dict[str, Any] = {"name": "x", "method": "lego", "rank": 4, "base_model": "b"}
    made = set()
    chosen: list[int | str] = [DEFAULT_MEMORY_BUDGET, *budgets.values()]
    for number, given in enumerate(chosen):
        output = tmp_path / str(number)
        merge(zoo, output, memory_budget=given, **options)
        made.add((output / "x.safetensors").read_bytes())
    assert len(made) == 1
    assert lego_ray.verify(output, sources=zoo, memory_budget=budgets[max(budgets)])["ok"]


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_stopped_adds_them_up_once(stop: int, tmp_path: Path) -> None:
    parts = parts_of(3)
    zoo = write_zoo(tmp_path / "zoo", parts)
    options: dict[str, Any] = {"full_weights": "sum", "base_model": "b"}
    options["memory_budget"] = next(
        budget
        for budget in range(WORKER_BYTES, WORKER_BYTES + (1 << 20), 512)
        if tasks_under(zoo, budget, **options) == 2
    )
    runs.merge(zoo, tmp_path / "wanted", **options)
    runs.stopped_after(stop, zoo, tmp_path / "m", **options)
    if stop == 2:  # the task that has the sums is lost
        kept(tmp_path / "m")[0].unlink()
    assert runs.merge(zoo, tmp_path / "m", **options)["resumed_sites"] == 1
    assert runs.contents(tmp_path / "m") == runs.contents(tmp_path / "wanted")


def tasks_under(zoo: Path, budget: int, **options: Any) -> int:
    """How many tasks a merge has under a memory budget; 0 if it does not fit."""
    try:
        plan = lego_ray.plan(zoo, rank=4, n_init=2, **{**options, "memory_budget": budget})
    except InvalidOption:
        return 0
    return 0 if any(task.shards for task in plan.tasks) else len(plan.tasks)


def test_on_ray_the_bytes_are_those_of_one_process(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", parts_of(4))
    merge(zoo, tmp_path / "m", name="x")
    for workers in (1, 4):
        merge(zoo, tmp_path / f"ray{workers}", name="x", runner="ray", workers=workers)
        made = (tmp_path / f"ray{workers}/x.safetensors").read_bytes()
        assert made == (tmp_path / "m/x.safetensors").read_bytes()


def test_norms_of_lycoris_keep_its_names(tmp_path: Path) -> None:
    parts = []
    for seed in (1, 2):
        pair = tensors_of([f"{KOHYA}_attn1_to_q"], ends="down_up", alpha=1.0, seed=seed)
        norm = {f"{KOHYA}_norm1.w_norm": random(seed, 8), f"{KOHYA}_norm1.b_norm": random(-seed, 8)}
        parts.append({**pair, **norm})
    merge(write_zoo(tmp_path / "zoo", parts), tmp_path / "m")
    merged = load(tmp_path / "m")
    assert {key for key in merged if "norm" in key} == {
        f"{KOHYA}_norm1.w_norm",
        f"{KOHYA}_norm1.b_norm",
    }
    assert close(patches_of(merged), sum_of(*map(patches_of, parts)))


def test_one_norm_with_the_names_of_two_tools_is_one_sum(tmp_path: Path) -> None:
    """`.b_norm` is read only beside `.w_norm`, so with a `.diff` both have the common names."""
    parts = [
        {
            **tensors_of([f"{KOHYA}_attn1_to_q"], ends="down_up", alpha=1.0, seed=seed),
            f"{KOHYA}_norm1{weight}": random(seed, 8),
            f"{KOHYA}_norm1{bias}": random(10 + seed, 8),
        }
        for seed, weight, bias in ((1, ".w_norm", ".b_norm"), (2, ".diff", ".diff_b"))
    ]
    merge(write_zoo(tmp_path / "zoo", parts), tmp_path / "m")
    merged = load(tmp_path / "m")
    assert {key for key in merged if "norm" in key} == {
        f"{KOHYA}_norm1.diff",
        f"{KOHYA}_norm1.diff_b",
    }
    assert close(patches_of(merged), sum_of(*map(patches_of, parts)))


def test_flat_and_dotted_names_of_a_module_are_one(tmp_path: Path) -> None:
    parts = parts_of(2)
    flat_names = {
        key: f"lora_unet_{key.removeprefix('diffusion_model.').partition('.diff')[0]}"
        for key in parts[0]
        if ".diff" in key
    }
    third = tensors_of(
        [f"lora_unet_{m.removeprefix('diffusion_model.').replace('.', '_')}" for m in MODULES],
        ends="down_up",
        alpha=1.0,
        seed=7,
    )
    for key, name in flat_names.items():
        end = key[key.index(".diff") :]
        third[f"{name.replace('.', '_')}{end}"] = random(len(key), 8)
    merge(write_zoo(tmp_path / "zoo", [*parts, third]), tmp_path / "m")
    merged = load(tmp_path / "m")
    keys = [key for key in merged if ".diff" in key]
    assert len(keys) == 3
    assert all(key.startswith("diffusion_model.") for key in keys)
    key = f"{NORM}.diff"
    own = "lora_unet_blocks_0_self_attn_norm_q.diff"
    total = parts[0][key].double() + third[own].double()
    assert torch.equal(merged[key], total.float())


def test_a_flat_name_whose_dots_nobody_knows_is_refused(tmp_path: Path) -> None:
    parts = [tensors_of(MODULES, seed=1), tensors_of(MODULES, seed=2)]
    flat_modules = [
        f"lora_unet_{m.removeprefix('diffusion_model.').replace('.', '_')}" for m in MODULES
    ]
    third = tensors_of(flat_modules, ends="down_up", alpha=1.0, seed=3)
    third["lora_unet_blocks_0_norm9.diff"] = random(1, 8)
    zoo = write_zoo(tmp_path / "zoo", [*parts, third])
    with pytest.raises(LayoutMismatch, match="norm9 has a difference and no factors"):
        lego_ray.plan(zoo, rank=4, base_model="base", full_weights="sum")
    merge(zoo, tmp_path / "m", full_weights="drop")


def test_a_fused_bias_is_cut_like_the_rows_of_b(tmp_path: Path) -> None:
    fused = flat("lora_unet_", FLUX)
    qkv = "lora_unet_double_blocks_0_img_attn_qkv"
    one = {
        **tensors_of(fused, ends="down_up", alpha=1.0, seed=1),
        f"{qkv}.diff_b": random(1, 3 * H),
    }
    two = tensors_of(dotted("transformer.", FLUX_THERE), seed=2)
    for number, part in enumerate(("q", "v")):
        two[f"transformer.transformer_blocks.0.attn.to_{part}.diff_b"] = random(20 + number, H)
    zoo = write_zoo(tmp_path / "zoo", [one, two])
    with pytest.raises(UnreadableOutput, match="diffusers raises"):
        lego_ray.plan(zoo, rank=4, base_model="base", full_weights="sum")
    merge(zoo, tmp_path / "m", rank=24, layout="comfyui")
    q, k, v = load(tmp_path / "m")["diffusion_model.double_blocks.0.img_attn.qkv.diff_b"].chunk(3)
    mine = one[f"{qkv}.diff_b"].chunk(3)
    theirs = [two[f"transformer.transformer_blocks.0.attn.to_{p}.diff_b"] for p in "qv"]
    assert torch.equal(k, mine[1])
    for got, first, second in zip((q, v), mine[::2], theirs, strict=True):
        assert torch.equal(got, (first.double() + second.double()).float())


def test_a_module_with_factors_and_a_difference_of_its_weight_is_refused(tmp_path: Path) -> None:
    own = {**parts_of(1)[0], f"{Q}.diff": random(1, 8, 8)}
    write(tmp_path / "one/a.safetensors", own)
    with pytest.raises(NoAdaptersFound, match="readers use only one of the two"):
        lego_ray.plan(tmp_path / "one", rank=4, base_model="base", full_weights="sum")
    parts = parts_of(2)
    parts[1] = {k: t for k, t in parts[1].items() if not k.startswith(Q)}
    parts[1][f"{Q}.diff"] = random(1, 8, 8)
    zoo = write_zoo(tmp_path / "two", parts)
    with pytest.raises(UnreadableOutput, match=r"q has factors and .*q\.diff"):
        lego_ray.plan(zoo, rank=4, base_model="base", full_weights="sum")


def test_shapes_that_differ_are_refused(tmp_path: Path) -> None:
    parts = parts_of(2)
    parts[1][f"{Q}.diff_b"] = random(1, 16)
    zoo = write_zoo(tmp_path / "zoo", parts)
    with pytest.raises(SiteShapeMismatch, match=r"\[16\]"):
        lego_ray.plan(zoo, rank=4, base_model="base", full_weights="sum")


def test_a_difference_that_is_not_finite_leaves_its_adapter_out(tmp_path: Path) -> None:
    parts = parts_of(3)
    parts[1][f"{NORM}.diff"][3] = torch.nan
    record = merge(write_zoo(tmp_path / "zoo", parts), tmp_path / "m")
    [refused] = record["refused"]
    assert Path(refused["adapter"]).name == "1.safetensors"
    assert f"{NORM}.diff holds 1 values" in refused["reason"]
    wanted = sum_of(patches_of(parts[0]), patches_of(parts[2]))
    assert close(patches_of(load(tmp_path / "m")), wanted)


def test_an_adapter_of_differences_alone_is_refused_by_name(tmp_path: Path) -> None:
    parts = parts_of(2)
    alone = {key: tensor for key, tensor in parts[1].items() if ".diff" in key}
    record = merge(write_zoo(tmp_path / "zoo", [parts[0], alone]), tmp_path / "m")
    [refused] = record["refused"]
    assert "no factors of a LoRA" in refused["reason"]


def test_running_sums_do_not_hold_them(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", parts_of(2))
    with pytest.raises(InvalidOption, match="--full-weights sum needs"):
        merge(zoo, tmp_path / "m", method="lego", updatable=True)


def test_a_budget_without_room_for_them_is_refused(tmp_path: Path) -> None:
    parts = parts_of(2)
    for part in parts:
        part["diffusion_model.patch_embedding.diff"] = random(1, 1024, 1024)
    zoo = write_zoo(tmp_path / "zoo", parts)
    with pytest.raises(InvalidOption, match="differences of weights, biases and norms need"):
        lego_ray.plan(zoo, rank=4, base_model="b", full_weights="sum", memory_budget="340MiB")


@pytest.mark.parametrize(
    ("module", "more", "why"),
    [
        (Q, f"{NORM}.set_weight", "replaces a weight"),
        ("transformer.transformer_blocks.0.attn.to_q", "@.norm_q.weight", "replaces a weight"),
        ("double_blocks.0.img_attn.proj", "@.norm.key_norm.scale", "replaces a weight"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "bundle_emb.cat.clip_l", "a new word"),
    ],
    ids=["ComfyUI", "diffusers, Flux control", "authors, Flux control", "OneTrainer"],
)
def test_what_takes_the_place_of_a_weight_is_dropped_or_refused_by_name(
    module: str, more: str, why: str, tmp_path: Path
) -> None:
    key = more.replace("@", module.rpartition(".")[0])
    ends = "down_up" if module.startswith("lora_te_") else "a_b"
    for seed in (1, 2):
        tensors = {**tensors_of([module], ends=ends, seed=seed), key: random(seed, 8)}
        write(tmp_path / f"zoo/{seed}.safetensors", tensors)
    for choice in ("refuse", "sum"):
        with pytest.raises(NoAdaptersFound, match=why):
            lego_ray.plan(tmp_path / "zoo", rank=4, base_model="b", full_weights=choice)
    record = merge(tmp_path / "zoo", tmp_path / "m", full_weights="drop")
    assert [key in each["note"] for each in record["notes"]] == [True, True]
    assert key not in load(tmp_path / "m")


def test_inspect_lists_them(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", parts_of(1)[0])
    [found] = lego_ray.inspect(tmp_path / "a.safetensors").found
    assert found.status == "refused"
    assert found.n_sites == 2
    assert [each["tensor"] for each in found.extra_weights] == [
        "diffusion_model.blocks.0.ffn.0.diff_b",
        f"{NORM}.diff",
        f"{Q}.diff_b",
    ]


@pytest.mark.parametrize(
    ("one", "two", "key"),
    [
        (
            "diffusion_model._orig_mod.blocks.0.self_attn.",
            "diffusion_model.blocks.0.self_attn.",
            f"{NORM}.diff",
        ),
        ("pipe.dit.blocks.0.self_attn.", "blocks.0.self_attn.", "blocks.0.self_attn.norm_q.diff"),
    ],
    ids=["torch.compile", "DiffSynth and bare names"],
)
def test_names_in_two_spellings_are_one(one: str, two: str, key: str, tmp_path: Path) -> None:
    parts = [
        {**tensors_of([f"{name}q"], seed=seed), f"{name}norm_q.diff": random(seed, 8)}
        for seed, name in enumerate((one, two), 1)
    ]
    merge(write_zoo(tmp_path / "zoo", parts), tmp_path / "m")
    total = random(1, 8).double() + random(2, 8).double()
    assert torch.equal(load(tmp_path / "m")[key], total.float())


def test_a_bias_under_the_authors_and_diffusers_names_is_one(tmp_path: Path) -> None:
    flat_name, dotted_name = "lora_unet_blocks_0_self_attn_q", "transformer.blocks.0.attn1.to_q"
    parts = [
        {**tensors_of([name], ends=ends, seed=seed), f"{name}.diff_b": random(seed, 8)}
        for seed, name, ends in ((1, flat_name, "down_up"), (2, dotted_name, "a_b"))
    ]
    zoo = write_zoo(tmp_path / "zoo", parts)
    merge(zoo, tmp_path / "m")
    total = (random(1, 8).double() + random(2, 8).double()).float()
    assert torch.equal(load(tmp_path / "m")[f"{flat_name}.diff_b"], total)
    merge(zoo, tmp_path / "n", layout="comfyui")
    name = "diffusion_model.blocks.0.self_attn.q.diff_b"
    assert torch.equal(load(tmp_path / "n")[name], total)
    parts[0]["lora_unet_blocks_0_norm3.diff"] = random(4, 8)
    parts[1]["transformer.blocks.0.norm2.diff"] = random(3, 8)
    write_zoo(zoo, parts)
    norms = (random(4, 8).double() + random(3, 8).double()).float()
    merge(zoo, tmp_path / "o")
    assert torch.equal(load(tmp_path / "o")["lora_unet_blocks_0_norm3.diff"], norms)
    merge(zoo, tmp_path / "p", layout="comfyui")
    assert torch.equal(load(tmp_path / "p")["diffusion_model.blocks.0.norm3.diff"], norms)
    parts[1]["transformer.blocks.0.other_norm.diff"] = random(3, 8)
    write_zoo(zoo, parts)
    with pytest.raises(LayoutMismatch, match="a module without factors"):
        lego_ray.plan(zoo, rank=4, base_model="b", full_weights="sum")


def test_norms_of_fused_names_and_of_diffusers_are_one(tmp_path: Path) -> None:
    authors, here = "diffusion_model.double_blocks.0", "transformer.transformer_blocks.0"
    parts = [
        {
            **tensors_of({f"{authors}.img_attn.proj": (8, 8)}, seed=1),
            f"{authors}.img_attn.norm.query_norm.scale.diff": random(1, 4),
            f"{authors}.txt_attn.qkv.diff_b": random(2, 24),
            "diffusion_model.final_layer.adaLN_modulation.1.diff_b": random(3, 16),
        },
        {
            **tensors_of({f"{here}.attn.to_out.0": (8, 8)}, seed=2),
            f"{here}.attn.norm_q.diff": random(4, 4),
            "transformer.norm_out.linear.diff_b": random(6, 16),
        },
    ]
    zoo = write_zoo(tmp_path / "zoo", parts)
    given: dict[str, Any] = {"layout": "comfyui", "base_model": "black-forest-labs/FLUX.1-dev"}
    merge(zoo, tmp_path / "m", **given)
    got = load(tmp_path / "m")
    norm = (random(1, 4).double() + random(4, 4).double()).float()
    assert torch.equal(got[f"{authors}.img_attn.norm.query_norm.scale.diff"], norm)
    last = (random(3, 16).double() + random(6, 16).roll(8).double()).float()
    assert torch.equal(got["diffusion_model.final_layer.adaLN_modulation.1.diff_b"], last)
    assert torch.equal(got[f"{authors}.txt_attn.qkv.diff_b"], random(2, 24))
    parts[1][f"{here}.attn.norm_k.diff"] = random(5, 4)  # Flux.1's name or HunyuanVideo's?
    write_zoo(zoo, parts)
    with pytest.raises(LayoutMismatch, match=r"norm_k.diff is the difference of a module without"):
        lego_ray.plan(zoo, rank=4, full_weights="sum", **given)


def test_numbers_and_narrow_types_add_up_exactly(tmp_path: Path) -> None:
    narrow = torch.float8_e4m3fn
    parts = [
        {
            **tensors_of([Q], seed=seed, dtype=narrow),
            f"{NORM}.diff": random(seed, 8).to(narrow),
            "diffusion_model.blocks.0.gamma.diff": random(seed, dtype=torch.float16),
        }
        for seed in (1, 2)
    ]
    merge(write_zoo(tmp_path / "zoo", parts), tmp_path / "m", dtype="F32")
    merged = load(tmp_path / "m")
    for key in (f"{NORM}.diff", "diffusion_model.blocks.0.gamma.diff"):
        total: Tensor = parts[0][key].double() + parts[1][key].double()
        assert torch.equal(merged[key], total.float())


def test_a_type_that_cannot_hold_the_sum_is_refused(tmp_path: Path) -> None:
    parts = parts_of(2)
    for part in parts:
        part[f"{NORM}.diff"] = torch.full((8,), 40000.0)
    zoo = write_zoo(tmp_path / "zoo", parts)
    with pytest.raises(InvalidOption, match=r"F16 cannot hold .*norm_q\.diff"):
        merge(zoo, tmp_path / "m", dtype="F16")
    merge(zoo, tmp_path / "m", dtype="BF16")


def test_a_library_sums_them_in_each_merge(tmp_path: Path) -> None:
    parts = parts_of(3)
    write_zoo(tmp_path / "zoo", parts)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
sources: [{tmp_path}/zoo]
output: {tmp_path}/out
full_weights: sum
defaults: {{rank: 16, method: concat, base_model: base}}
merges:
  - name: all
  - name: two
    adapters: ["0.safetensors", "2.safetensors"]
"""
    )
    lego_ray.build(recipe, runner="inline")
    for name, mine in (("all", parts), ("two", parts[::2])):
        [made] = (tmp_path / "out" / name).rglob("*.safetensors")
        got = patches_of(load(made.parent))
        assert close(got, sum_of(*map(patches_of, mine)))
