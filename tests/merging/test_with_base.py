"""DoRA, PiSSA and OLoRA merged with their base model: PEFT's own merged weights are the oracle."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import lego_ray
from lego_ray.errors import InvalidOption, NoAdaptersFound, ObjectNotFound, UnusableBase
from tests.formats import tiny_peft
from tests.tiny_models import gpt2

WEIGHTS = "adapter_model.safetensors"


def files_of(root: Path) -> dict[str, bytes]:
    """The bytes of every file of an output."""
    return {file.name: file.read_bytes() for file in root.iterdir() if file.is_file()}


# Ours is float64 and rounded once; PEFT's is float32 all the way, its SVD and QR too.
FLOAT32: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}
Base = Callable[[], Any]


def llama(**more: Any) -> Any:
    sizes = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **more}))


def write_base(root: Path, make: Base = llama, *, shard: str = "1GB", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = make()
    for parameter in model.parameters():  # so that nothing of it is zero or one
        parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained(root, max_shard_size=shard)
    return root


def load(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def train(base: Path, path: Path, *, seed: int = 1, **options: Any) -> dict[str, Tensor]:
    """An adapter trained a little, saved by PEFT; and what it does to the base model, by weight."""
    fields: dict[str, Any] = {"r": 3, "lora_alpha": 7, "task_type": "CAUSAL_LM", **options}
    fields.setdefault("target_modules", ["q_proj", "v_proj", "down_proj"])
    before = {name: tensor.clone() for name, tensor in load(base).state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(load(base), LoraConfig(**fields))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(path))
        after = model.merge_and_unload().state_dict()
    return {
        name: after[name] - tensor
        for name, tensor in before.items()
        if not torch.equal(after[name], tensor)
    }


def effect(base: Path, merged: Path) -> dict[str, Tensor]:
    """What a merged adapter does to the base model, by weight, as PEFT has it."""
    before = {name: tensor.clone() for name, tensor in load(base).state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = PeftModel.from_pretrained(load(base), str(merged)).merge_and_unload().state_dict()
    return {
        name: after[name] - tensor
        for name, tensor in before.items()
        if not torch.equal(after[name], tensor)
    }


def merged(source: Path, base: Path, output: Path, rank: int, **options: Any) -> Any:
    options = {"runner": "inline", "method": "svd", "dtype": "F32", "compact": True, **options}
    return lego_ray.merge(source, output=output, base=base, rank=rank, **options)


def check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **FLOAT32)


EXACT: dict[str, tuple[Base, int, dict[str, Any]]] = {
    "dora": (llama, 16, {"use_dora": True, "r": 16}),
    "dora rslora": (
        llama,
        16,
        {
            "use_dora": True,
            "use_rslora": True,
            "r": 16,
            "rank_pattern": {"layers.1.self_attn.v_proj": 8},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "dora gpt2": (gpt2, 16, {"use_dora": True, "r": 16, "target_modules": ["c_attn", "c_proj"]}),
    "dora embedding": (
        llama,
        16,
        {"use_dora": True, "r": 16, "target_modules": ["embed_tokens", "q_proj"]},
    ),
    "pissa": (llama, 6, {"init_lora_weights": "pissa"}),
    "pissa patterns": (
        llama,
        8,
        {
            "init_lora_weights": "pissa",
            "use_rslora": True,
            "rank_pattern": {"layers.1.self_attn.q_proj": 4},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "pissa gpt2": (
        gpt2,
        6,
        {"init_lora_weights": "pissa", "target_modules": ["c_attn", "c_proj", "c_fc"]},
    ),
    "pissa of a wide rank": (llama, 16, {"init_lora_weights": "pissa", "r": 8}),
    "olora": (llama, 6, {"init_lora_weights": "olora"}),
    "olora rslora": (llama, 6, {"init_lora_weights": "OLoRA", "use_rslora": True}),
    "dora of pissa": (
        llama,
        8,
        {"init_lora_weights": "pissa", "use_dora": True, "r": 8, "target_modules": ["v_proj"]},
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_the_effect_is_peft_s_where_the_rank_holds_it(tmp_path: Path, case: str) -> None:
    make, rank, options = EXACT[case]
    base = write_base(tmp_path / "base", make)
    wanted = train(base, tmp_path / "adapter", **options)
    record = merged(tmp_path / "adapter", base, tmp_path / "out", rank)
    check(effect(base, tmp_path / "out"), wanted)
    told = "; ".join(note["note"] for note in record.notes)
    assert ("DoRA" in told) == bool(options.get("use_dora"))


def test_convolutions_and_embeddings_are_rescaled_as_peft_does(tmp_path: Path) -> None:
    model = tiny_peft.train(3, use_dora=True, r=12)
    before = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor.clone()
        for name, tensor in model.state_dict().items()
        if "lora_" not in name
    }
    (tmp_path / "base").mkdir()
    save_file(before, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    tiny_peft.save(model, tmp_path / "adapter")
    after = model.merge_and_unload().state_dict()
    merged(tmp_path / "adapter", tmp_path / "base", tmp_path / "out", 12, full_weights="drop")
    found = tiny_peft.our_deltas(tmp_path / "out", tiny_peft.read(tmp_path / "out"))
    assert len(found) == 9
    for site, delta in found.items():
        wanted = after[f"{site}.weight"] - before[f"{site}.weight"]
        wanted = wanted.T if site == "emb" else wanted.flatten(1)
        torch.testing.assert_close(delta, wanted, **FLOAT32)


def test_a_nearest_update_of_a_lower_rank_says_its_error(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    wanted = train(base, tmp_path / "adapter", use_dora=True, r=3)
    record = merged(tmp_path / "adapter", base, tmp_path / "out", 3)
    found = effect(base, tmp_path / "out")
    lost = total = 0.0
    for name, tensor in wanted.items():
        u, s, vh = torch.linalg.svd(tensor.double())
        nearest = (u[:, :3] * s[:3]) @ vh[:3]
        torch.testing.assert_close(found[name].double(), nearest, **FLOAT32)
        lost, total = lost + float(s[3:].square().sum()), total + float(s.square().sum())
    planned, measured = (note["note"] for note in record.notes)
    assert planned == (
        "6 modules are DoRA: merged as the plain LoRA of rank 3 nearest to what it does to the base "
        "model"
    )
    assert f"a relative error of {(lost / total) ** 0.5:.3g} against" in measured
    again = merged(tmp_path / "adapter", base, tmp_path / "out", 3)
    assert again.status == "already published"
    assert again.notes == record.notes
    planned_only = lego_ray.plan(tmp_path / "adapter", base=base, rank=3)
    assert [note["note"] for note in planned_only.as_json()["notes"]] == [planned]
    made = lego_ray.plan(tmp_path / "adapter", base=base, rank=3, errors=True)
    assert [note["note"] for note in made.as_json()["notes"]] == [planned, measured]


def zoo(root: Path, base: Path) -> Path:
    """One adapter of each kind, and two plain ones."""
    train(base, root / "dora", seed=1, use_dora=True)
    train(base, root / "dora-2", seed=2, use_dora=True, r=2)
    train(base, root / "pissa", seed=3, init_lora_weights="pissa")
    train(base, root / "olora", seed=4, init_lora_weights="olora")
    train(base, root / "plain", seed=5)
    train(base, root / "plain-2", seed=6, r=2)
    return root


def test_any_runner_and_any_cut_give_the_same_bytes(tmp_path: Path, local_ray: None) -> None:
    base = write_base(tmp_path / "base", shard="10KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    adapters = zoo(tmp_path / "zoo", base)
    options: dict[str, Any] = {"base": base, "rank": 4, "method": "svd"}
    lego_ray.merge(adapters, output=tmp_path / "inline", runner="inline", **options)
    lego_ray.merge(adapters, output=tmp_path / "ray" / "inline", **options)
    one = write_base(tmp_path / "one")
    options["base"] = one
    lego_ray.merge(adapters, output=tmp_path / "one-file" / "inline", runner="inline", **options)
    found = files_of(tmp_path / "inline")
    assert found == files_of(tmp_path / "ray" / "inline")
    manifest = "lego_ray_manifest.json"
    other = files_of(tmp_path / "one-file" / "inline")
    assert json.loads(found[manifest])["merge_id"] == json.loads(other[manifest])["merge_id"]
    assert found[WEIGHTS] == other[WEIGHTS]


def test_a_pool_in_shards_is_the_same(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", lambda: llama(hidden_size=64))
    first = tmp_path / "zoo" / "0"
    train(base, first, use_dora=True, r=32, target_modules=["layers.0.self_attn.q_proj"])
    for seed in range(1, 8):
        other = shutil.copytree(first, tmp_path / "zoo" / str(seed)) / WEIGHTS
        tensors = load_file(other)
        save_file({name: t * (1 + seed / 10) for name, t in tensors.items()}, other)
    options: dict[str, Any]
    options = {"base": base, "rank": 4, "runner": "inline"}
    whole = lego_ray.plan(tmp_path / "zoo", **options)
    least = 0
    for step in range(1, 60):
        budget = whole.peak_bytes - step * 100_000
        try:
            made = lego_ray.plan(tmp_path / "zoo", memory_budget=budget, **options)
        except InvalidOption:
            break
        least = budget if any(task.shards for task in made.tasks) else least
    assert least
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "whole" / "out", **options)
    lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "shards" / "out", memory_budget=least, **options
    )
    assert files_of(tmp_path / "whole" / "out") == files_of(tmp_path / "shards" / "out")


def test_without_a_base_they_are_refused_and_told_of_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    kinds: dict[str, dict[str, Any]] = {
        "dora": {"use_dora": True},
        "pissa": {"init_lora_weights": "pissa"},
        "olora": {"init_lora_weights": "olora"},
    }
    for name, options in kinds.items():
        train(base, tmp_path / name, **options)
        with pytest.raises(NoAdaptersFound, match="Give its base model with --base"):
            lego_ray.plan(tmp_path / name, rank=3)


@pytest.mark.parametrize("with_base", [False, True])
def test_magnitudes_that_peft_would_pass_over_are_told_with_what_to_do(
    tmp_path: Path, with_base: bool
) -> None:
    base = write_base(tmp_path / "base")
    options: dict[str, Any] = {"base": base} if with_base else {}
    train(base, tmp_path / "unsaid", use_dora=True)
    tiny_peft.edit_config(tmp_path / "unsaid", use_dora=False)
    train(base, tmp_path / "lycoris")
    file = tmp_path / "lycoris" / "adapter_model.safetensors"
    tensors = load_file(file)
    stem = next(iter(tensors)).split(".lora_")[0]
    save_file({**tensors, f"{stem}.dora_scale": torch.ones(8, 1)}, file, {"format": "pt"})
    for name, told in (
        ("unsaid", "set use_dora to true"),
        ("lycoris", "without an adapter_config"),
    ):
        with pytest.raises(NoAdaptersFound, match=told) as caught:
            lego_ray.plan(tmp_path / name, rank=3, **options)
        assert "Give its base model" not in str(caught.value)


def test_a_randomized_start_is_refused_with_the_base_too(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "a", init_lora_weights="pissa_niter_4")
    with pytest.raises(NoAdaptersFound, match="init_lora_weights is pissa_niter_4") as caught:
        lego_ray.plan(tmp_path / "a", rank=3, base=base)
    assert "--base" not in str(caught.value)


def test_a_plain_adapter_is_read_as_before_and_the_base_is_not(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "a")
    plain = lego_ray.plan(tmp_path / "a", rank=3)
    for where in (base, tmp_path / "nowhere"):
        with_base = lego_ray.plan(tmp_path / "a", rank=3, base=where)
        assert with_base.digest == plain.digest
        assert "no adapter needs the base model that --base names" in str(with_base.warnings)
    assert not any("--base names" in warning for warning in plain.warnings)


def test_what_peft_converted_is_plain_and_has_the_same_effect(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    options: dict[str, Any] = {"init_lora_weights": "pissa", "r": 3, "lora_alpha": 7}
    options["target_modules"] = ["q_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **options))
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(str(tmp_path / "initial"))
        model.peft_config["default"].init_lora_weights = "pissa"
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += torch.randn(parameter.shape) * 0.1
        model.save_pretrained(str(tmp_path / "raw"))
        model.save_pretrained(
            str(tmp_path / "converted"),
            path_initial_model_for_weight_conversion=str(tmp_path / "initial"),
        )
    converted = merged(tmp_path / "converted", base, tmp_path / "out-c", 6)
    assert not any("PiSSA" in note["note"] for note in converted.notes)
    raw = merged(tmp_path / "raw", base, tmp_path / "out-r", 6)
    assert any("PiSSA" in note["note"] for note in raw.notes)
    check(effect(base, tmp_path / "out-r"), effect(base, tmp_path / "out-c"))


def edit_base(base: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, file, {"format": "pt"})


Q = "model.layers.0.self_attn.q_proj.weight"


def test_an_adapter_of_the_bare_model_finds_its_layers_in_the_causal_one(tmp_path: Path) -> None:
    write_base(tmp_path / "causal")
    bare = transformers.AutoModel.from_pretrained(tmp_path / "causal")
    bare.save_pretrained(tmp_path / "bare")
    torch.manual_seed(1)
    asked = LoraConfig(r=3, use_dora=True, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(bare, asked).save_pretrained(str(tmp_path / "zoo"))
    merges = []
    for base in ("bare", "causal"):
        out = tmp_path / f"out-{base}"
        record = lego_ray.merge(
            tmp_path / "zoo", output=out, rank=3, base=tmp_path / base, runner="inline"
        )
        assert not record.refused
        merges.append(load_file(out / WEIGHTS))
    one, other = merges
    assert one.keys() == other.keys()
    assert len(one) == 4
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_another_base_is_another_plan(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "a", use_dora=True)
    one = lego_ray.plan(tmp_path / "a", rank=3, base=base)
    shutil.copytree(base, tmp_path / "elsewhere")
    moved = lego_ray.plan(tmp_path / "a", rank=3, base=tmp_path / "elsewhere")
    assert moved.digest == one.digest
    edit_base(tmp_path / "elsewhere", Q, lambda tensor: tensor + torch.eye(16) * 1e-3)
    other = lego_ray.plan(tmp_path / "a", rank=3, base=tmp_path / "elsewhere")
    assert other.digest != one.digest
    assert other.adapters[0].adapter_id != one.adapters[0].adapter_id
    unused = "model.norm.weight"
    edit_base(base, unused, lambda tensor: tensor * 2)
    assert lego_ray.plan(tmp_path / "a", rank=3, base=base).digest == one.digest


def test_an_adapter_of_another_base_is_refused_by_name(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "zoo" / "dora", use_dora=True)
    train(base, tmp_path / "zoo" / "plain")
    wide = write_base(tmp_path / "wide", lambda: llama(hidden_size=32))
    made = lego_ray.plan(tmp_path / "zoo", rank=3, base=wide)
    [refused] = made.refused
    assert refused.uri.endswith("dora")
    assert "down_proj.weight of the base model" in refused.reason
    assert "has shape [32, 24]" in refused.reason
    short = write_base(tmp_path / "short", lambda: llama(num_hidden_layers=1))
    [refused] = lego_ray.plan(tmp_path / "zoo", rank=3, base=short).refused
    assert "has no weight of model.layers.1" in refused.reason


def test_a_quantized_base_is_refused_by_name(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "a", use_dora=True)
    config = json.loads((base / "config.json").read_text())
    for method in ("bitsandbytes", "gptq", "fp8"):
        told = {**config, "quantization_config": {"quant_method": method}}
        (base / "config.json").write_text(json.dumps(told))
        with pytest.raises(UnusableBase, match=method):
            lego_ray.plan(tmp_path / "a", rank=3, base=base)
    (base / "config.json").write_text(json.dumps(config))
    edit_base(base, Q, lambda tensor: tensor.to(torch.float8_e4m3fn))
    with pytest.raises(UnusableBase, match=f"{Q} of type F8_E4M3"):
        lego_ray.plan(tmp_path / "a", rank=3, base=base)


def test_a_start_that_the_base_does_not_define_sets_the_adapter_aside(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "zoo" / "pissa", init_lora_weights="pissa")
    train(base, tmp_path / "zoo" / "plain")
    edit_base(base, Q, lambda tensor: torch.eye(16))
    record = merged(tmp_path / "zoo", base, tmp_path / "out", 3)
    [refused] = record.refused
    assert refused["adapter"].endswith("pissa")
    assert "does not define it at rank 3" in refused["reason"]
    assert len(record.adapters) == 1


@pytest.mark.parametrize("is_seen", [True, False], ids=["", "of the same size and time"])
def test_a_base_that_changes_starts_the_run_over(is_seen: bool, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "a", use_dora=True)
    done: list[int] = []

    def progress(plan: Any, result: Any) -> None:
        if result is not None and not done:
            done.append(1)
            was = (base / "model.safetensors").stat()
            edit_base(base, Q, lambda tensor: tensor * 2)
            if not is_seen:
                assert (base / "model.safetensors").stat().st_size == was.st_size
                os.utime(base / "model.safetensors", ns=(was.st_atime_ns, was.st_mtime_ns))

    record = merged(tmp_path / "a", base, tmp_path / "x" / "out", 3, progress=progress)
    assert "model.safetensors" in str(record.warnings)
    merged(tmp_path / "a", base, tmp_path / "y" / "out", 3)
    assert files_of(tmp_path / "x" / "out") == files_of(tmp_path / "y" / "out")


def test_a_task_is_one_module_and_counts_its_weight(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapters = zoo(tmp_path / "zoo", base)
    made = lego_ray.plan(adapters, rank=3, base=base)
    assert [len(task.sites) for task in made.tasks] == [1] * 6
    size = {task.sites[0].site: task.read_bytes for task in made.tasks}
    each = sum(
        span.end - span.start
        for adapter in made.adapters
        for site in adapter.sites
        if site.site == Q.removesuffix(".weight")
        for span in site.spans()
    )
    assert size[Q.removesuffix(".weight")] == each + 16 * 16 * 4
    record = merged(adapters, base, tmp_path / "out", 3)
    assert record.bytes_read > made.read_bytes


def test_a_library_an_update_and_a_check_take_the_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapters = zoo(tmp_path / "zoo", base)
    recipe = tmp_path / "library.yaml"
    recipe.write_text(
        f"sources: [{adapters}]\nbase: {base}\ndefaults: {{rank: 4, updatable: true}}\n"
        "merges:\n  - name: all\n  - name: two\n    adapters: [dora, plain]\n"
    )
    built = lego_ray.build(recipe, output=tmp_path / "library", runner="inline")
    assert not built.refused
    lego_ray.merge(
        adapters, output=tmp_path / "all", base=base, rank=4, updatable=True, runner="inline"
    )
    assert files_of(tmp_path / "library" / "all") == files_of(tmp_path / "all")
    recipe.write_text(recipe.read_text().replace(f"base: {base}\n", ""))
    without = lego_ray.build(recipe, output=tmp_path / "none", runner="inline", dry_run=True)
    assert len(without.refused) == 4
    again = lego_ray.build(recipe, output=tmp_path / "again", base=base, runner="inline")
    assert [m.merge_id for m in again.merges] == [m.merge_id for m in built.merges]
    refreshed = lego_ray.refresh(
        recipe,
        output=tmp_path / "refreshed",
        catalog=tmp_path / "catalog",
        base=base,
        runner="inline",
    )
    assert [m.merge_id for m in refreshed.merges] == [m.merge_id for m in built.merges]

    two = tmp_path / "library" / "two"
    updated = lego_ray.update(two, add=adapters / "pissa", runner="inline")
    assert len(updated.adapters) == 3
    assert any("PiSSA" in note["note"] for note in updated.notes)
    back = lego_ray.update(tmp_path / "library" / "two-v2", remove=["pissa"], runner="inline")
    assert files_of(Path(back.output))[WEIGHTS] == files_of(two)[WEIGHTS]

    checked = lego_ray.verify(two, sources=adapters)
    assert checked.errors is not None
    base.rename(tmp_path / "moved")
    with pytest.raises(ObjectNotFound, match="--base"):
        lego_ray.verify(two, sources=adapters)
    assert lego_ray.verify(two, sources=adapters, base=tmp_path / "moved").errors == checked.errors


def test_finished_tasks_are_kept_for_the_same_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train(base, tmp_path / "a", use_dora=True)

    def stop(plan: Any, result: Any) -> None:
        if result is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merged(tmp_path / "a", base, tmp_path / "x" / "out", 3, progress=stop)
    resumed = merged(tmp_path / "a", base, tmp_path / "x" / "out", 3)
    assert resumed.resumed_sites == 1
    merged(tmp_path / "a", base, tmp_path / "y" / "out", 3)
    assert files_of(tmp_path / "x" / "out") == files_of(tmp_path / "y" / "out")
