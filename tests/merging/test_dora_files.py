"""DoRA in single files and of mlx-lm: the formulas of those who write them, and what diffusers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.utils import state_dict_utils
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

import lego_ray
from lego_ray.errors import NoAdaptersFound, UnusableBase
from tests.image_zoo import Updates
from tests.kinds_zoo import KINDS, Make, cp, dense, plain
from tests.lone_zoo import load, updates_of, write
from tests.merging.test_with_base import effect, files_of, write_base
from tests.merging.test_with_base import load as load_model
from tests.output.test_diffusers_loads import text_encoder, unet
from tests.zoo import relative_error

# Ours is float64 and rounded once; PEFT's and diffusers' is float32 all the way.
F32_ROUNDING = 64 * 2.0**-24
EPSILON = 2.0**-23  # what LyCORIS adds to a length
TO_KOHYA: Any = state_dict_utils.convert_state_dict_to_kohya


def pipeline(root: Path, models: Mapping[str, Any]) -> Path:
    """A pipeline as diffusers saves it, of some components."""
    for name, model in models.items():
        model.save_pretrained(root / name)
    (root / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return root


def stable_diffusion(root: Path) -> tuple[Path, dict[str, Tensor]]:
    """A tiny pipeline, and its weights by what kohya's tools call the modules."""
    torch.manual_seed(0)
    models = {"unet": unet(), "text_encoder": text_encoder()}
    weights = {}
    for component, model in models.items():
        prefix = "lora_unet_" if component == "unet" else "lora_te_text_model_"
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.randn(tensor.shape) * 0.3)
            weights[prefix + name.removesuffix(".weight").replace(".", "_")] = tensor.clone()
    return pipeline(root, models), weights


def rescaled(weight: Tensor, update: Tensor, scale: Tensor) -> np.ndarray:
    """What LyCORIS adds to a weight: `wd_on_output` or not, by the shape of its scale."""
    new = weight.double() + update.double().reshape(weight.shape)
    dims = tuple(n for n in range(new.ndim) if scale.shape[n] == 1)
    length = torch.linalg.vector_norm(new, dim=dims, keepdim=True) + EPSILON
    change: np.ndarray = (scale.double() / length * new - weight.double()).flatten(1).numpy()
    return change


def merged(source: Path, base: Path, output: Path, **options: Any) -> Any:
    given = {"rank": 80, "method": "concat", "dtype": "F32", "runner": "inline", **options}
    return lego_ray.merge(source, output=output, base=base, **given)


MODULES = {
    "linear": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "linear, not square": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "conv 1x1": "lora_unet_down_blocks_0_attentions_0_proj_in",
    "conv 3x3": "lora_unet_down_blocks_0_resnets_0_conv1",
    "text": "lora_te_text_model_encoder_layers_1_mlp_fc1",
}


# Kinds whose plain pair has full rank, so that it holds a DoRA's update whole; and one of a lower rank.
MADE: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    **KINDS,
    "plain of full rank": (
        lambda s, d: plain(s, d, min(s[0], int(np.prod(s[1:])))),
        KINDS["plain"][1],
    ),
    "cp": (lambda s, d: cp(s, d, s[0]), ("conv 3x3",)),
}


def dora_file(
    weights: Mapping[str, Tensor], kind: str, on_output: bool, modules: Mapping[str, str] = MODULES
) -> tuple[dict[str, Tensor], Updates]:
    """A file of LyCORIS, and what it adds to each module's weight."""
    make, fitting = MADE[kind]
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    tensors: dict[str, Tensor] = {}
    wanted: Updates = {}
    for module in modules.values():
        weight = weights[module]
        if weight.ndim == 4 and "conv 3x3" not in fitting:
            continue
        if weight.ndim == 2 and "linear" not in fitting:
            continue
        parts, divisor = make(tuple(weight.shape), draw)
        tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in parts.items()}
        tensors[f"{module}.alpha"] = torch.tensor(3.0)
        dims = tuple(n for n in range(weight.ndim) if n != (0 if on_output else 1))
        length = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
        scale = length * (1 + 0.3 * torch.rand(length.shape, generator=generator))
        tensors[f"{module}.dora_scale"] = scale
        update = (3.0 / divisor if divisor else 1.0) * dense(parts)
        wanted[module] = rescaled(weight, update, scale)
    return tensors, wanted


@pytest.mark.parametrize("on_output", [False, True])
@pytest.mark.parametrize(
    "kind", ["plain of full rank", "loha beyond full rank", "lokr whole", "cp"]
)
def test_what_lycoris_trained_is_added_whole(kind: str, on_output: bool, tmp_path: Path) -> None:
    base, weights = stable_diffusion(tmp_path / "base")
    tensors, wanted = dora_file(weights, kind, on_output)
    record = merged(write(tmp_path / "a.safetensors", tensors), base, tmp_path / "out")
    assert relative_error(updates_of(load(tmp_path / "out")), wanted) < F32_ROUNDING
    notes = " ".join(note["note"] for note in record.notes)
    assert "DoRA: merged as the plain LoRA" in notes
    assert ("ComfyUI divides by the lengths of the base model's rows" in notes) == on_output
    with pytest.raises(NoAdaptersFound, match="Give its base model with --base"):
        lego_ray.plan(tmp_path / "a.safetensors", rank=2)


def test_the_nearest_of_a_lower_rank_says_its_error(tmp_path: Path) -> None:
    base, weights = stable_diffusion(tmp_path / "base")
    tensors, wanted = dora_file(weights, "plain", on_output=False)
    record = merged(write(tmp_path / "a.safetensors", tensors), base, tmp_path / "out", rank=2)
    got = updates_of(load(tmp_path / "out"))
    lost = total = 0.0
    for module, update in wanted.items():
        u, s, vh = np.linalg.svd(update)
        assert relative_error({"a": got[module]}, {"a": (u[:, :2] * s[:2]) @ vh[:2]}) < 1e-4
        lost, total = lost + float((s[2:] ** 2).sum()), total + float((s**2).sum())
    [note] = [n["note"] for n in record.notes if "relative error" in n["note"]]
    assert f"a relative error of {(lost / total) ** 0.5:.3g} against" in note


def trained(model: Any, targets: list[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of a DoRA that PEFT trained a little on a model, and what it adds to the weights."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.add_adapter(LoraConfig(r=8, lora_alpha=4, use_dora=True, target_modules=targets))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    state = get_peft_model_state_dict(model)
    for _, module in model.named_modules():
        if hasattr(module, "merge") and hasattr(module, "lora_A"):
            module.merge()
    after = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in model.state_dict().items()
        if "lora_" not in name
    }
    return state, {n: after[n] - t for n, t in before.items() if not torch.equal(after[n], t)}


TARGETS = ["attn1.to_q", "attn2.to_k", "proj_in", "down_blocks.0.resnets.0.conv1"]


@pytest.mark.parametrize("form", ["diffusers", "diffusers with its settings", "kohya"])
def test_what_diffusers_trained_is_what_peft_makes_of_it(form: str, tmp_path: Path) -> None:
    base, _ = stable_diffusion(tmp_path / "base")
    model = unet().from_pretrained(base / "unet")
    state, effect = trained(model, TARGETS)
    path = tmp_path / "a" / "pytorch_lora_weights.safetensors"
    metadata = {"r": 8, "lora_alpha": 4, "use_dora": True, "target_modules": TARGETS}
    if form == "kohya":
        tensors = TO_KOHYA({f"unet.{key}": tensor for key, tensor in state.items()})
        assert any(key.endswith("_0.proj_in.lora_magnitude_vector") for key in tensors)
        alpha = {key: torch.tensor(4.0) for key in tensors if key.endswith(".alpha")}
        write(path, {key: tensor.contiguous() for key, tensor in {**tensors, **alpha}.items()})
    else:
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            path.parent,
            unet_lora_layers=state,
            unet_lora_adapter_metadata=metadata if "settings" in form else None,
        )
    if (
        form == "diffusers"
    ):  # without its settings, alpha is the rank: the file means another update
        effect = loaded_effect(unet().from_pretrained(base / "unet"), path)
    merged(path, base, tmp_path / "out", rank=16)
    got = {flattened(name): u for name, u in updates_of(load(tmp_path / "out")).items()}
    wanted = {
        flattened(name.removesuffix(".weight")): change.double().flatten(1).numpy()
        for name, change in effect.items()
    }
    assert len(wanted) > 8
    assert got.keys() == wanted.keys()
    for name, update in wanted.items():  # the rank holds the whole update of these
        if min(update.shape) <= 8:
            assert relative_error({"a": got[name]}, {"a": update}) < F32_ROUNDING, name


def flattened(name: str) -> str:
    return name.removeprefix("lora_unet_").removeprefix("unet.").replace(".", "_")


def loaded_effect(model: Any, path: Path) -> dict[str, Tensor]:
    """What a file adds to a UNet's weights, once diffusers has loaded and merged it."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
        str(path.parent), return_lora_metadata=True
    )
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(
        state, unet=model, network_alphas=alphas, metadata=metadata, low_cpu_mem_usage=False
    )
    for _, module in model.named_modules():
        if hasattr(module, "merge") and hasattr(module, "lora_A"):
            module.merge()
    after = {n.replace(".base_layer", ""): t for n, t in model.state_dict().items()}
    return {n: after[n] - t for n, t in before.items() if not torch.equal(after[n], t)}


def test_a_square_convolution_is_read_by_the_others_of_its_file(tmp_path: Path) -> None:
    base, weights = stable_diffusion(tmp_path / "base")
    conv, linear = MODULES["conv 3x3"], MODULES["linear"]
    weight = weights[conv]
    assert weight.shape[0] == weight.shape[1]
    generator = torch.Generator().manual_seed(5)
    a, b = (
        torch.randn(8, 8, 3, 3, generator=generator),
        torch.randn(8, 8, 1, 1, generator=generator),
    )
    tensors = {f"{conv}.lora_down.weight": 0.1 * a, f"{conv}.lora_up.weight": 0.1 * b}
    scale = 1 + torch.rand(1, 8, 1, 1, generator=generator)
    tensors[f"{conv}.dora_scale"] = scale
    update = updates_of(tensors)[conv].reshape(weight.shape)
    of_inputs = rescaled(weight, torch.tensor(update), scale)
    of_outputs = rescaled(weight, torch.tensor(update), scale.reshape(8, 1, 1, 1))
    merged(write(tmp_path / "a.safetensors", tensors), base, tmp_path / "out")
    got = updates_of(load(tmp_path / "out"))[conv]
    assert relative_error({"a": got}, {"a": of_inputs}) < F32_ROUNDING
    tensors |= {
        f"{linear}.lora_down.weight": a[:, :, 0, 0].contiguous(),
        f"{linear}.lora_up.weight": b[:, :, 0, 0].contiguous(),
    }
    tensors[f"{linear}.dora_scale"] = torch.ones(8)  # as PEFT stores them
    merged(write(tmp_path / "b.safetensors", tensors), base, tmp_path / "out-b")
    got = updates_of(load(tmp_path / "out-b"))[conv]
    assert relative_error({"a": got}, {"a": of_outputs}) < 1e-5


FUSED = {
    "double_blocks_0_img_attn_qkv": (
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_k",
        "transformer_blocks.0.attn.to_v",
    ),
    "single_blocks_0_linear1": (
        "single_transformer_blocks.0.attn.to_q",
        "single_transformer_blocks.0.attn.to_k",
        "single_transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.0.proj_mlp",
    ),
    "double_blocks_0_img_mlp_0": ("transformer_blocks.0.ff.net.0.proj",),
    "final_layer_adaLN_modulation_1": ("norm_out.linear",),
}


@pytest.mark.parametrize("on_output", [False, True])
@pytest.mark.parametrize("place", ["base", "base/transformer"])
def test_a_model_under_its_authors_names(place: str, on_output: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind: Any = FluxTransformer2DModel
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
    base = pipeline(tmp_path / "base", {"transformer": model})
    there = model.state_dict()
    weights = {
        f"lora_unet_{name}": torch.cat([there[f"{part}.weight"] for part in parts])
        for name, parts in FUSED.items()
    }
    last = "lora_unet_final_layer_adaLN_modulation_1"
    weights[last] = torch.cat(weights[last].chunk(2)[::-1])
    tensors, wanted = dora_file(weights, "plain of full rank", on_output, {n: n for n in weights})
    merged(
        write(tmp_path / "a.safetensors", tensors),
        tmp_path / place,
        tmp_path / "out",
        base_model="black-forest-labs/FLUX.1-dev",
    )
    assert relative_error(updates_of(load(tmp_path / "out")), wanted) < F32_ROUNDING
    assert base.is_dir()


def test_wans_two_transformers_are_not_taken_for_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind: Any = WanTransformer3DModel
    models = {
        name: kind(
            num_attention_heads=1,
            attention_head_dim=12,
            in_channels=2,
            out_channels=2,
            text_dim=4,
            freq_dim=4,
            ffn_dim=8,
            num_layers=1,
        )
        for name in ("transformer", "transformer_2")
    }
    base = pipeline(tmp_path / "base", models)
    weight = models["transformer_2"].blocks[0].attn1.to_q.weight.detach()
    name = "diffusion_model.blocks.0.self_attn.q"
    tensors, wanted = dora_file({name: weight}, "plain of full rank", True, {name: name})
    file = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UnusableBase, match="two transformers with the same modules"):
        lego_ray.plan(file, base=base, rank=2)
    merged(file, base / "transformer_2", tmp_path / "out")
    assert relative_error(updates_of(load(tmp_path / "out")), wanted) < F32_ROUNDING


def test_magnitudes_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    base, weights = stable_diffusion(tmp_path / "base")
    tensors, _ = dora_file(weights, "plain", on_output=True)
    key = f"{MODULES['linear, not square']}.dora_scale"

    def refusal(change: Mapping[str, Tensor]) -> str:
        file = write(tmp_path / "a.safetensors", {**tensors, **change})
        with pytest.raises(NoAdaptersFound) as caught:
            lego_ray.plan(file, base=base, rank=2)
        return str(caught.value)

    assert "has shape [12, 1]" in refusal({key: torch.ones(12, 1)})
    assert "has 8 outputs and 12 inputs" in refusal({key: torch.ones(1, 8)[:, :7].contiguous()})
    assert "no factors beside it" in refusal({f"{MODULES['text']}x.dora_scale": torch.ones(8)})
    assert "is I32" in refusal({key: torch.ones(8, 1, dtype=torch.int32)})


def test_another_model_s_names_are_not_guessed_at(tmp_path: Path) -> None:
    base, _ = stable_diffusion(tmp_path / "base")
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors, _ = dora_file({name: torch.ones(24, 8)}, "plain", True, {name: name})
    with pytest.raises(NoAdaptersFound, match="has no weight of lora_unet_double_blocks_0"):
        lego_ray.plan(write(tmp_path / "a.safetensors", tensors), base=base, rank=2)


def mlx(path: Path, base: Mapping[str, Tensor], config: Mapping[str, Any]) -> Updates:
    """An mlx-lm DoRA of full rank, and what `DoRALinear.fuse` and `DoRAEmbedding.fuse` add."""
    generator = torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    wanted: Updates = {}
    for module in ("model.layers.0.self_attn.v_proj", "model.embed_tokens"):
        weight = base[f"{module}.weight"].double()
        is_embedding = module.endswith("embed_tokens")
        d_in, d_out = weight.shape if is_embedding else weight.shape[::-1]
        rank = min(weight.shape)
        a = 0.1 * torch.randn(d_in, rank, generator=generator)
        b = 0.1 * torch.randn(rank, d_out, generator=generator)
        m = weight.norm(dim=1) * (1 + 0.3 * torch.rand(len(weight), generator=generator))
        tensors |= {f"{module}.lora_a": a, f"{module}.lora_b": b, f"{module}.m": m.float()}
        change = 2.5 * a.double() @ b.double()
        new = weight + (change if is_embedding else change.T)
        new *= (m.float().double() / new.norm(dim=1))[:, None]
        wanted[module] = (new - weight).numpy()
    path.mkdir()
    save_file(tensors, path / "adapters.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(config))
    return wanted


def test_mlx_lm_s_dora_is_what_mlx_lm_fuses(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    config = {"fine_tune_type": "dora", "num_layers": 2, "model": "m"}
    config["lora_parameters"] = {"rank": 8, "scale": 2.5, "dropout": 0.0}
    before = {name: t.clone() for name, t in load_model(base).state_dict().items()}
    wanted = mlx(tmp_path / "a", before, config)
    with pytest.raises(NoAdaptersFound, match="Give its base model with --base"):
        lego_ray.plan(tmp_path / "a", rank=2)
    merged(tmp_path / "a", base, tmp_path / "out", rank=16, compact=True)
    got = {
        name.removesuffix(".weight"): change.double().numpy()
        for name, change in effect(base, tmp_path / "out").items()
    }
    got.pop("lm_head", None)
    assert relative_error(got, wanted) < 1e-5
    tensors = load_file(tmp_path / "a" / "adapters.safetensors")
    tensors.pop("model.embed_tokens.m")
    save_file(tensors, tmp_path / "a" / "adapters.safetensors")
    with pytest.raises(NoAdaptersFound, match="has no m, which a DoRA has"):
        lego_ray.plan(tmp_path / "a", rank=2, base=base)


def test_ray_gives_the_same_bytes(tmp_path: Path, local_ray: None) -> None:
    base, weights = stable_diffusion(tmp_path / "base")
    for number, kind in enumerate(("plain", "loha beyond full rank")):
        tensors, _ = dora_file(weights, kind, on_output=bool(number))
        write(tmp_path / "zoo" / f"{number}.safetensors", tensors)
    options: dict[str, Any] = {"base": base, "rank": 4}
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "a" / "out", runner="inline", **options)
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "b" / "out", **options)
    assert files_of(tmp_path / "a" / "out") == files_of(tmp_path / "b" / "out")


def checkpoint(root: Path) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint of FLUX.1 in one file, and its weights by the authors' names."""
    torch.manual_seed(0)
    shapes = {
        "double_blocks.0.img_attn.qkv": (24, 8),
        "single_blocks.0.linear1": (56, 8),
        "final_layer.adaLN_modulation.1": (16, 8),
    }
    weights = {name: 0.3 * torch.randn(*shape) for name, shape in shapes.items()}
    text = "text_model.encoder.layers.0.mlp.fc1"
    tensors = {f"model.diffusion_model.{name}.weight": w for name, w in weights.items()}
    weights[text] = tensors[f"conditioner.embedders.0.transformer.{text}.weight"] = torch.randn(
        8, 8
    )
    return write(root / "flux.safetensors", tensors), weights


@pytest.mark.parametrize("names", ["authors", "diffusers"])
def test_a_checkpoint_in_one_file_is_a_base_model(tmp_path: Path, names: str) -> None:
    base, there = checkpoint(tmp_path)
    qkv, linear1, last, text = there.values()
    weights = {f"lora_unet_{n.replace('.', '_')}": w for n, w in list(there.items())[:3]}
    if names == "diffusers":
        block, single = "transformer_blocks_0_attn_to", "single_transformer_blocks_0"
        weights = {f"{block}_{part}": qkv[8 * n : 8 * n + 8] for n, part in enumerate("qkv")}
        weights |= {f"{single}_attn_to_v": linear1[16:24], f"{single}_proj_mlp": linear1[24:]}
        weights["norm_out_linear"] = torch.cat(last.chunk(2)[::-1])
        weights = {f"lora_transformer_{name}": weight for name, weight in weights.items()}
    weights["lora_te1_text_model_encoder_layers_0_mlp_fc1"] = text
    for number, on_output in enumerate((True, False)):
        tensors, wanted = dora_file(
            weights, "plain of full rank", on_output, {n: n for n in weights}
        )
        out = tmp_path / str(number)
        merged(write(tmp_path / f"{number}.safetensors", tensors), base, out, base_model="flux")
        assert relative_error(updates_of(load(out)), wanted) < F32_ROUNDING


def test_other_files_are_no_base_model_and_the_error_says_what_to_give(tmp_path: Path) -> None:
    _, weights = stable_diffusion(tmp_path / "base")
    tensors, _ = dora_file(weights, "plain", on_output=True)
    file = write(tmp_path / "a.safetensors", tensors)
    one = {"model.layers.0.proj.weight": torch.ones(4, 4)}
    base = write(tmp_path / "models" / "sd_xl_base.safetensors", one)
    for place in (base, base.parent):
        with pytest.raises(UnusableBase) as caught:
            lego_ray.plan(file, base=place, rank=2)
        assert "sd_xl_base.safetensors" in str(caught.value)
        assert "from_single_file" in str(caught.value)
    whole, _ = checkpoint(tmp_path)
    with pytest.raises(NoAdaptersFound, match="has no weight of"):
        lego_ray.plan(file, base=whole, rank=2)
    h3 = {"blocks.0.attn.qkv_proj": (8, 768)}
    tensors = {f"diffusion_model.{n}.weight": torch.ones(*s[::-1]) for n, s in h3.items()}
    base = write(tmp_path / "h3.safetensors", tensors)
    weights = {f"diffusion_model.{n}": torch.ones(*s[::-1]) for n, s in h3.items()}
    tensors, _ = dora_file(weights, "plain", on_output=True, modules={n: n for n in weights})
    with pytest.raises(UnusableBase, match="either of two orders"):
        lego_ray.plan(write(tmp_path / "b.safetensors", tensors), base=base, rank=2)
