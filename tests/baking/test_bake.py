"""A baked model is to the bit the one that PEFT's `merge_and_unload` makes."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

import lego_ray
from lego_ray.errors import OutputExists, SourceChanged, UnsupportedAdapter, UnusableBase
from tests.difference_zoo import patches_of
from tests.formats import tiny_experts
from tests.lone_zoo import tensors_of, updates_of, write
from tests.merging.test_dora_files import checkpoint
from tests.storage.fake_hub import FakeHub, fake_hub
from tests.tiny_models import gpt2
from tests.zoo import files_of

_SIZES: dict[str, Any] = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
_LLAMA = {**_SIZES, "hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1}


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_LLAMA, **more))


def qwen() -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_LLAMA))


def saved(
    root: Path,
    make: Callable[[], Any],
    dtype: torch.dtype = torch.float32,
    shard: str = "1GB",
    **options: Any,
) -> tuple[Path, Path]:
    """A base model and an adapter with random factors, saved by their own libraries."""
    torch.manual_seed(0)
    model = make().to(dtype)
    model.save_pretrained(root / "base", max_shard_size=shard)
    (root / "base" / "tokenizer.json").write_text('{"tiny": true}')
    (root / "base" / "README.md").write_text("The base.")
    fields: dict[str, Any] = {"r": 3, "lora_alpha": 7, "task_type": "CAUSAL_LM", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = get_peft_model(model, LoraConfig(**fields))
        for name, parameter in trained.named_parameters():
            if "lora_" in name or "modules_to_save" in name or name.endswith(".bias"):
                parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
        trained.save_pretrained(str(root / "adapter"))
    return root / "base", root / "adapter"


def oracle(base: Path, adapter: Path, kind: Any) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = kind.from_pretrained(base)
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return dict(merged.state_dict())


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForCausalLM"])
def test_an_adapter_of_the_bare_model_goes_into_the_causal_one_and_back(
    kind: str, tmp_path: Path
) -> None:
    """As of embedding models, which are trained on AutoModel and published with a causal base."""
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path / "causal")
    transformers.AutoModel.from_pretrained(tmp_path / "causal").save_pretrained(tmp_path / "bare")
    of, on = ("bare", "causal") if kind == "AutoModel" else ("causal", "bare")
    loaded = getattr(transformers, kind)
    asked = LoraConfig(r=3, target_modules=ATTENTION, init_lora_weights=False)
    trained = get_peft_model(loaded.from_pretrained(tmp_path / of), asked)
    trained.save_pretrained(str(tmp_path / "a"))
    lego_ray.bake(tmp_path / "a", base=tmp_path / on, output=tmp_path / "out")
    found = loaded.from_pretrained(tmp_path / "out").state_dict()
    wanted = oracle(tmp_path / of, tmp_path / "a", loaded)
    shared = found.keys() - {"lm_head.weight"}  # which a bare model does not have
    assert len(shared) > 10
    for name in shared:
        assert torch.equal(found[name], wanted[name]), name


def check(base: Path, adapter: Path, kind: Any = transformers.AutoModelForCausalLM) -> Any:
    out = base.parent / "out"
    record = lego_ray.bake(adapter, base=base, output=out)
    assert record.status == "baked"
    found = kind.from_pretrained(out).state_dict()
    wanted = oracle(base, adapter, kind)
    assert found.keys() == wanted.keys()
    plain = kind.from_pretrained(base).state_dict()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert any(not torch.equal(found[name], plain[name]) for name in found)
    return record


ATTENTION = ["q_proj", "v_proj", "o_proj"]
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "llama": (llama, {"target_modules": [*ATTENTION, "up_proj", "down_proj", "lm_head"]}),
    "qwen": (qwen, {"target_modules": ATTENTION}),
    "patterns": (
        llama,
        {
            "target_modules": ATTENTION,
            "use_rslora": True,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied embedding": (
        lambda: llama(tie_word_embeddings=True),
        {"target_modules": ["embed_tokens", "q_proj"]},
    ),
    "tied head": (
        lambda: llama(tie_word_embeddings=True),
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    ),
    "saved modules": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "biases": (qwen, {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of updates": (qwen, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "gpt2 square": (gpt2, {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_peft_makes_of_it(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    make, options = CASES[case]
    check(*saved(tmp_path, make, dtype, **options))


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_experts_are_what_peft_makes_of_them(tmp_path: Path, name: str) -> None:
    base: Any = tiny_experts.model(name)
    base.save_pretrained(tmp_path / "base")
    tiny_experts.train(name, tmp_path / "adapter")
    check(tmp_path / "base", tmp_path / "adapter")


def test_a_vision_model_whose_files_have_the_names_of_before_transformers_5(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, intermediate_size=24, image_size=8, patch_size=4)
    base, adapter = saved(
        tmp_path,
        lambda: transformers.ViTForImageClassification(config),
        target_modules=["q_proj", "o_proj", "fc1", "fc2"],
        task_type=None,
    )
    names = load_file(base / "model.safetensors")
    assert any("attention.attention.query" in name for name in names)
    check(base, adapter, transformers.AutoModelForImageClassification)


def test_files_are_those_of_the_base_and_another_run_does_nothing(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, shard="10KB", target_modules=ATTENTION)
    (base / "pytorch_model.bin").write_bytes(b"old")
    dry = lego_ray.bake(adapter, base=base, output=tmp_path / "out", dry_run=True)
    assert dry.status == "would bake"
    assert not (tmp_path / "out").exists()
    assert len(dry.changes) == 6
    record = check(base, adapter)
    out = tmp_path / "out"
    names = {p.name for p in out.iterdir()}
    assert {p.name for p in base.iterdir()} - {"pytorch_model.bin"} == names - {
        "lego_ray_bake.json",
        ".lego-ray",
    }
    assert record.not_copied == ("pytorch_model.bin",)
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert record.files[-1]["path"] == "model.safetensors.index.json"
    before = files_of(out)
    again = lego_ray.bake(adapter, base=base, output=out)
    assert again.status == "already baked"
    assert again.files == record.files
    assert files_of(out) == before


def test_what_an_output_lost_is_written_again(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, shard="10KB", target_modules=ATTENTION)
    out = tmp_path / "out"

    def bake() -> lego_ray.BakeRecord:
        return lego_ray.bake(adapter, base=base, output=out)

    bake()
    (out / "README.md").write_text("Edited.")
    assert bake().status == "already baked"
    whole = {name: data for name, (_, data) in files_of(out).items()}
    shard = min(out.glob("model-*.safetensors"))
    shard.write_bytes(whole[shard.name][:100])
    with pytest.raises(OutputExists, match=r"has 100 bytes.*Delete it and run the same command"):
        bake()
    shard.unlink()
    assert bake().status == "baked"
    assert {name: data for name, (_, data) in files_of(out).items()} == whole


def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, shard="10KB", target_modules=ATTENTION)
    lego_ray.bake(adapter, base=base, output=tmp_path / "whole")

    class Killed(BaseException):
        pass

    def killed(done: int, total: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        lego_ray.bake(adapter, base=base, output=tmp_path / "cut", progress=killed)
    assert not (tmp_path / "cut" / "model.safetensors.index.json").exists()
    with pytest.raises(OutputExists):
        lego_ray.bake(adapter, base=base, output=tmp_path / "cut", dtype="BF16")
    lego_ray.bake(adapter, base=base, output=tmp_path / "cut")
    whole, cut = files_of(tmp_path / "whole"), files_of(tmp_path / "cut")
    assert {k: v[1] for k, v in whole.items()} == {k: v[1] for k, v in cut.items()}


def test_what_a_kill_leaves_is_not_in_the_way_and_goes(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, target_modules=ATTENTION)
    out = tmp_path / "out"
    out.mkdir()
    probe = out / f".lego-ray-probe-{'0' * 32}"
    probe.write_bytes(b"first")  # killed as it tried the store
    lego_ray.bake(adapter, base=base, output=out)
    probe.unlink(missing_ok=True)
    wanted = files_of(out)
    started = out / ".lego-ray" / "bake.json"
    started.parent.mkdir(exist_ok=True)
    started.write_text("{}")  # killed before its last call
    assert lego_ray.bake(adapter, base=base, output=out, dry_run=True).status == "already baked"
    assert started.exists()
    assert lego_ray.bake(adapter, base=base, output=out).status == "already baked"
    assert files_of(out) == wanted


def test_another_type_is_written_as_asked(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, target_modules=ATTENTION)
    lego_ray.bake(adapter, base=base, output=tmp_path / "out", dtype="BF16")
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in oracle(base, adapter, transformers.AutoModelForCausalLM).items():
        assert torch.equal(found[name], tensor.to(torch.bfloat16)), name


def test_bases_that_cannot_be_used_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, target_modules=["q_proj"])
    config = json.loads((base / "config.json").read_text())

    def refused(words: str) -> None:
        with pytest.raises(UnusableBase, match=words):
            lego_ray.bake(adapter, base=base, output=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    quantized = {**config, "quantization_config": {"quant_method": "gptq"}}
    (base / "config.json").write_text(json.dumps(quantized))
    refused("quantized .gptq.")
    (base / "config.json").write_text(json.dumps(config))
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused("pytorch_model.bin")
    for change, words in (
        ({"hidden_size": 32}, "has shape"),
        ({"num_hidden_layers": 1}, "lacks model.layers.1"),
    ):
        other = transformers.LlamaConfig(**{**_LLAMA, **change})
        transformers.LlamaForCausalLM(other).save_pretrained(base)
        refused(words)


def test_an_output_with_other_files_is_left_alone(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, target_modules=["q_proj"])
    before = files_of(base)
    with pytest.raises(OutputExists, match="other files"):
        lego_ray.bake(adapter, base=base, output=base)
    assert files_of(base) == before


def test_image_adapters_go_into_the_component_of_a_pipeline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind: Any = diffusers.QwenImageTransformer2DModel
    model = kind(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    base = tmp_path / "base"
    model.save_pretrained(base / "transformer")
    (base / "model_index.json").write_text('{"_class_name": "QwenImagePipeline"}')
    weight = model.transformer_blocks[0].attn.to_q.weight
    a, b = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    dotted = "transformer.transformer_blocks.0.attn.to_q"
    flat = "lora_unet_transformer_blocks_0_attn_to_q"
    save_file(
        {f"{dotted}.lora_A.weight": a, f"{dotted}.lora_B.weight": b}, tmp_path / "d.safetensors"
    )
    kohya = {"lora_down.weight": a, "lora_up.weight": b, "alpha": torch.tensor(1.0)}
    save_file({f"{flat}.{k}": v for k, v in kohya.items()}, tmp_path / "k.safetensors")
    for name, scale in (("d", 1.0), ("k", 0.5)):
        out = tmp_path / name
        record = lego_ray.bake(tmp_path / f"{name}.safetensors", base=base, output=out)
        assert record.files[-1]["path"] == "model_index.json"
        found = kind.from_pretrained(out / "transformer")
        baked = found.transformer_blocks[0].attn.to_q.weight
        assert torch.equal(baked, weight + b @ a * scale)


@pytest.mark.s3
def test_a_bucket_gets_the_files_that_a_directory_gets(s3_bucket: str, tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, shard="10KB", target_modules=ATTENTION)
    local = lego_ray.bake(adapter, base=base, output=tmp_path / "out")
    there = lego_ray.bake(adapter, base=base, output=f"s3://{s3_bucket}/out")
    again = lego_ray.bake(adapter, base=base, output=f"s3://{s3_bucket}/out")
    assert local.files == there.files == again.files
    assert again.status == "already baked"


def test_what_cannot_be_added_is_refused(tmp_path: Path) -> None:
    base, tokens = saved(
        tmp_path / "tokens",
        llama,
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [3]},
    )
    image = tmp_path / "image.safetensors"
    pair = tensors_of(["diffusion_model.blocks.0.self_attn.q"])
    write(image, {**pair, "diffusion_model.blocks.0.diff_m": torch.ones(8)})
    for adapter in (tokens, image):
        with pytest.raises(UnsupportedAdapter, match="does not add rows of tokens"):
            lego_ray.bake(adapter, base=base, output=tmp_path / "out")
    biased = saved(tmp_path / "bias", qwen, target_modules=["q_proj"], lora_bias=True)[1]
    with pytest.raises(UnusableBase, match=r"lacks .*q_proj.bias"):  # Llama has no such biases
        lego_ray.bake(biased, base=base, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_differences_are_added_as_comfyui_adds_them(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind: Any = diffusers.QwenImageTransformer2DModel
    model = kind(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
    ).to(dtype)
    base = tmp_path / "base"
    model.save_pretrained(base / "transformer")
    (base / "model_index.json").write_text('{"_class_name": "QwenImagePipeline"}')
    block = "diffusion_model.transformer_blocks.0"
    tensors = tensors_of({f"{block}.attn.to_q": (16, 16)}, alpha=1.0)
    tensors[f"{block}.attn.to_q.diff_b"] = torch.randn(16)
    tensors[f"{block}.attn.norm_q.diff"] = torch.randn(8)
    tensors[f"{block}.img_mod.1.diff"] = torch.randn(96, 16)
    tensors[f"{block}.img_mod.1.diff_b"] = torch.randn(96)
    adapter = write(tmp_path / "a.safetensors", tensors)
    record = lego_ray.bake(adapter, base=base, output=tmp_path / "out")
    assert sum(each["differences"] for each in record.changes) == 4
    found = kind.from_pretrained(tmp_path / "out" / "transformer", torch_dtype=dtype).state_dict()
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for key, change in patches_of(tensors).items():
        target = wanted[key.removeprefix("diffusion_model.")]
        target += change.float()
    for name, tensor in wanted.items():
        if "to_q.weight" in name:
            torch.testing.assert_close(found[name], tensor)
        else:
            assert torch.equal(found[name], tensor), name
    write(adapter, {**tensors, f"{block}.attn.norm_q.diff": torch.randn(9)})
    with pytest.raises(UnusableBase, match="has shape"):
        lego_ray.bake(adapter, base=base, output=tmp_path / "out-2")


@pytest.mark.parametrize("place", ["base", "base/transformer"])
def test_authors_names_go_into_the_parts_that_diffusers_has(place: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind: Any = diffusers.FluxTransformer2DModel
    model = kind(
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    model.save_pretrained(tmp_path / "base" / "transformer")
    (tmp_path / "base" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    qkv, last = "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_final_layer_adaLN_modulation_1"
    tensors = tensors_of({qkv: (8, 24), last: (8, 16)}, ends="down_up", alpha=1.0)
    adapter = write(tmp_path / "a.safetensors", tensors)
    record = lego_ray.bake(adapter, base=tmp_path / place, output=tmp_path / "out")
    assert len(record.changes) == 4
    out = tmp_path / "out" / "transformer" if place == "base" else tmp_path / "out"
    found, before = kind.from_pretrained(out).state_dict(), model.state_dict()
    updates = updates_of(tensors)
    wanted = {
        f"transformer_blocks.0.attn.to_{part}.weight": updates[qkv][8 * n : 8 * n + 8]
        for n, part in enumerate("qkv")
    }
    wanted["norm_out.linear.weight"] = np.roll(updates[last], 8, axis=0)
    for name, tensor in before.items():
        change = torch.from_numpy(wanted[name]).float() if name in wanted else torch.zeros(1)
        torch.testing.assert_close(found[name], tensor + change)


@pytest.mark.parametrize("names", ["authors", "diffusers"])
def test_a_part_beside_the_transformer_gets_what_is_its_own(names: str, tmp_path: Path) -> None:
    """Anima's text conditioner, which its authors call a part of the transformer."""
    torch.manual_seed(0)
    base = {
        "transformer": {"transformer_blocks.0.attn1.to_q": (8, 8), "proj_out": (8, 4)},
        "text_conditioner": {"blocks.0.self_attn.q_proj": (8, 8), "out_proj": (8, 8)},
    }
    for folder, modules in base.items():
        kind = {"transformer": "CosmosTransformer3DModel"}.get(folder, "AnimaTextConditioner")
        (tmp_path / "base" / folder).mkdir(parents=True)
        (tmp_path / "base" / folder / "config.json").write_text(json.dumps({"_class_name": kind}))
        weights = {f"{name}.weight": torch.randn(*reversed(size)) for name, size in modules.items()}
        save_file(weights, tmp_path / "base" / folder / "diffusion_pytorch_model.safetensors")
    (tmp_path / "base" / "model_index.json").write_text('{"_class_name": "AnimaPipeline"}')
    paths = {  # as the authors have them, and as diffusers does
        "blocks.0.self_attn.q_proj": "transformer.transformer_blocks.0.attn1.to_q",
        "llm_adapter.blocks.0.self_attn.q_proj": "text_conditioner.blocks.0.self_attn.q_proj",
        "llm_adapter.out_proj": "text_conditioner.out_proj",
    }
    here = {f"diffusion_model.{path}": there for path, there in paths.items()}
    told = here if names == "authors" else {there: there for there in paths.values()}
    tensors = tensors_of(dict.fromkeys(told, (8, 8)))
    adapter = write(tmp_path / "a.safetensors", tensors)
    record = lego_ray.bake(adapter, base=tmp_path / "base", output=tmp_path / "out")
    assert len(record.changes) == 3
    updates = {told[name]: update for name, update in updates_of(tensors).items()}
    for folder in base:
        file = f"{folder}/diffusion_pytorch_model.safetensors"
        before, found = load_file(tmp_path / "base" / file), load_file(tmp_path / "out" / file)
        for name, weight in before.items():
            update = updates.pop(f"{folder}.{name.removesuffix('.weight')}", None)
            change = torch.zeros(1) if update is None else torch.from_numpy(update).float()
            torch.testing.assert_close(found[name], weight + change)
    assert not updates


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def test_a_checkpoint_in_one_file_is_written_as_one(hub: FakeHub, tmp_path: Path) -> None:
    base, weights = checkpoint(tmp_path / "models")
    block, single = (
        "transformer.transformer_blocks.0.attn",
        "transformer.single_transformer_blocks.0",
    )
    tensors = tensors_of(
        {
            **{f"{block}.to_k": (8, 8), f"{single}.proj_mlp": (8, 32)},
            **{"transformer.norm_out.linear": (8, 16)},
            "text_encoder.text_model.encoder.layers.0.mlp.fc1": (8, 8),
        }
    )
    adapter = write(tmp_path / "a.safetensors", tensors)
    record = lego_ray.bake(adapter, base=base, output=tmp_path / "out")
    assert [each["path"] for each in record.files] == ["README.md", base.name]
    key, mlp, last, text = updates_of(tensors).values()
    wanted = [torch.zeros(24, 8), torch.zeros(56, 8), torch.zeros(16, 8), torch.from_numpy(text)]
    wanted[0][8:16], wanted[1][24:] = torch.from_numpy(key), torch.from_numpy(mlp)
    wanted[2] = torch.from_numpy(np.roll(last, 8, axis=0))
    before, found = load_file(base), load_file(tmp_path / "out" / base.name)
    assert found.keys() == before.keys()
    for name, change in zip(weights, wanted, strict=True):
        [where] = [each for each in before if name in each]
        torch.testing.assert_close(found[where], before[where] + change.float())
    commit = hub.commit({f"models/{base.name}": base.read_bytes()})
    again = lego_ray.bake(adapter, base=f"hf://org/zoo/models/{base.name}", output=tmp_path / "out")
    assert (again.status, again.base) == (
        *("already baked", f"hf://org/zoo@{commit}/models/{base.name}"),
    )


def test_a_base_model_on_the_hub_is_read_at_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, shard="10KB", target_modules=ATTENTION)
    held = {file.name: file.read_bytes() for file in base.iterdir()}
    commit = hub.commit({f"model/{name}": data for name, data in held.items()})
    local = lego_ray.bake(adapter, base=base, output=tmp_path / "out")
    there = lego_ray.bake(adapter, base="hf://org/zoo/model", output=tmp_path / "there")
    assert there.base == f"hf://org/zoo@{commit}/model"

    def of_model(record: Any) -> Any:
        return [
            each for each in record.files if each["path"] != "README.md"
        ]  # which names the base

    assert of_model(local) == of_model(there)
    assert there.bake_id == local.bake_id
    hub.commit({"model/config.json": b"{}"})  # what moves on is another model; the commit is not
    again = lego_ray.bake(adapter, base=f"hf://org/zoo@{commit}/model", output=tmp_path / "there")
    assert again.status == "already baked"


def _other_middle(base: Path) -> None:
    """Replaces a base model by one with files of the same size, header, ends and times of writing."""
    file = base / "model.safetensors"
    was = file.stat()
    other = bytearray(file.read_bytes())
    other[len(other) // 2 : len(other) // 2 + 4] = torch.tensor([0.75]).numpy().tobytes()
    (base / "new").write_bytes(other)
    os.utime(base / "new", ns=(was.st_atime_ns, was.st_mtime_ns))
    (base / "new").replace(file)


def wide_llama() -> Any:
    sizes = {**_LLAMA, "vocab_size": 4000, "hidden_size": 32, "intermediate_size": 512}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))


def test_another_base_with_the_same_ends_is_not_taken_for_the_one_that_was_baked(
    tmp_path: Path,
) -> None:
    base, adapter = saved(tmp_path, wide_llama, target_modules=["q_proj"])
    out = tmp_path / "out"
    lego_ray.bake(adapter, base=base, output=out)
    wanted = files_of(out)
    shutil.copytree(base, tmp_path / "copy", copy_function=shutil.copyfile)
    again = lego_ray.bake(adapter, base=tmp_path / "copy", output=out)
    assert again.status == "already baked"
    _other_middle(base)
    with pytest.raises(OutputExists, match=r"another model\.safetensors"):
        lego_ray.bake(adapter, base=base, output=out)
    with pytest.raises(OutputExists, match=r"another model\.safetensors"):
        lego_ray.bake(adapter, base=base, output=out, dry_run=True)
    (tmp_path / "copy" / "tokenizer.json").write_text('{"tiny": 1234}')
    with pytest.raises(OutputExists, match=r"another tokenizer\.json"):
        lego_ray.bake(adapter, base=tmp_path / "copy", output=out)
    assert files_of(out) == wanted


def _other_alpha(adapter: Path) -> None:
    fields = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**fields, "lora_alpha": 70}))


@pytest.mark.parametrize("what", ["base", "adapter"])
def test_what_changes_while_it_is_baked_makes_no_model(what: str, tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, wide_llama, target_modules=["q_proj"])
    done: list[int] = []

    def change(number: int, total: int) -> None:
        if not done:
            (_other_middle if what == "base" else _other_alpha)(tmp_path / what)
        done.append(number)

    with pytest.raises(SourceChanged, match=r"model\.safetensors|adapter_config\.json"):
        lego_ray.bake(adapter, base=base, output=tmp_path / "out", progress=change)
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_manifest_of_a_run_cut_short_is_taken_from_a_copy_of_the_base(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path, llama, target_modules=["q_proj"])
    out = tmp_path / "out"
    marker = tmp_path / "out" / lego_ray.bake(adapter, base=base, output=out).files[-1]["path"]
    wanted = {name: data for name, (_, data) in files_of(out).items()}
    marker.unlink()  # killed between the last two files
    os.utime(base / "model.safetensors", ns=(1, 1))
    assert lego_ray.bake(adapter, base=base, output=out).status == "baked"
    assert {name: data for name, (_, data) in files_of(out).items()} == wanted
