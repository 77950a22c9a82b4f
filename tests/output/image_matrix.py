"""Zoos of tiny LoRAs of image models, drawn at random over layouts, types, alphas and ranks.

A case has an architecture, adapters in layouts of its two sets of names, and what a merge is asked for.
The updates are float64 products; those under the names of a model's authors are what diffusers' own
converter makes of the file. A merge is loaded by diffusers into a tiny model. Nothing of lego_ray
computes them, only its tables say which names there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.loaders import lora_pipeline as loaders
from peft import PeftModel
from torch import Tensor, nn

import lego_ray
from lego_ray.formats.architectures import ARCHITECTURES
from tests.formats.test_architectures import MODELS, UNTYPED
from tests.image_zoo import Updates
from tests.lone_zoo import ENDS, load, through, write

BY_NAME = {each.name: each for each in ARCHITECTURES}
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8": torch.float8_e4m3fn,
}
ALPHAS = ("none", "scalar", "vector", "half", "integer", "each its own")


@dataclass(frozen=True)
class Kind:
    """A model, and what diffusers loads of it.

    Attributes:
        table: Name of lego_ray's table.
        model: Makes a tiny one.
        loader: diffusers' class that loads its LoRAs.
        base: What people call the base model.
        authors: Prefix and ends of a file with the authors' names that diffusers converts; empty if it
            converts none.
        left_out: Parts of paths that this converter does not take, or takes at one width alone.
        outputs: Layouts of a merge that diffusers loads.
        component: What diffusers calls the part of the pipeline.
        options: Of the loader's `lora_state_dict`.
    """

    table: str
    model: Callable[[], nn.Module]
    loader: Any
    base: str
    authors: tuple[str, str] | tuple[()] = ()
    left_out: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("diffusers", "peft")
    component: str = "transformer"
    options: Mapping[str, Any] = field(default_factory=dict)


def _hunyuan() -> nn.Module:
    made: nn.Module = UNTYPED.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=8,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 6, 6),
    )
    return made


def _anima() -> nn.Module:
    made: nn.Module = UNTYPED.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        text_embed_dim=8,
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
    )
    return made


_FLUX = "Flux.1, Chroma or HunyuanVideo"
_DIT = ("diffusers", "comfyui", "peft")
KINDS: Mapping[str, Kind] = {
    "Flux.1": Kind(
        _FLUX,
        MODELS[_FLUX][0],
        loaders.FluxLoraLoaderMixin,
        "black-forest-labs/FLUX.1-dev",
        ("lora_unet_", "down_up"),
        # whose widths are in the converter, or names of other models and tools
        ("linear1", "fc1", "fc2", "processor", ".linear"),
        options={"return_alphas": True},
    ),
    "Flux.2": Kind(
        "Flux.2",
        MODELS["Flux.2"][0],
        loaders.Flux2LoraLoaderMixin,
        "black-forest-labs/FLUX.2-dev",
        ("diffusion_model.", "a_b"),
        outputs=_DIT,
    ),
    "HunyuanVideo": Kind(
        _FLUX,
        _hunyuan,
        loaders.HunyuanVideoLoraLoaderMixin,
        "hunyuanvideo-community/HunyuanVideo",
    ),
    "SD3": Kind(
        "Stable Diffusion 3",
        MODELS["Stable Diffusion 3"][0],
        loaders.SD3LoraLoaderMixin,
        "stabilityai/stable-diffusion-3.5-large",
    ),
    "Wan": Kind(
        "Wan",
        MODELS["Wan"][0],
        loaders.WanLoraLoaderMixin,
        "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
        ("diffusion_model.", "a_b"),
        outputs=_DIT,
    ),
    "Qwen-Image": Kind(
        "Qwen-Image",
        MODELS["Qwen-Image"][0],
        loaders.QwenImageLoraLoaderMixin,
        "Qwen/Qwen-Image",
        ("diffusion_model.", "a_b"),
        outputs=("diffusers", "comfyui", "kohya", "peft"),
    ),
    "LTX": Kind(
        "LTX",
        MODELS["LTX"][0],
        loaders.LTXVideoLoraLoaderMixin,
        "Lightricks/LTX-Video",
        ("diffusion_model.", "a_b"),
        ("patchify_proj", "adaln_single"),  # which this converter leaves as they are
    ),
    "LTX-2": Kind(
        "LTX",
        MODELS["LTX"][1],
        loaders.LTX2LoraLoaderMixin,
        "Lightricks/LTX-2",
        ("diffusion_model.", "a_b"),
        outputs=_DIT,
    ),
    "Z-Image": Kind(
        "Z-Image",
        MODELS["Z-Image"][0],
        loaders.ZImageLoraLoaderMixin,
        "Tongyi-MAI/Z-Image-Turbo",
        ("lora_unet_", "down_up"),
        ("x_embedder", "final_layer", "cap_embedder", "t_embedder"),
    ),
    "HiDream": Kind(
        "HiDream",
        MODELS["HiDream"][0],
        loaders.HiDreamImageLoraLoaderMixin,
        "HiDream-ai/HiDream-I1-Full",
        ("diffusion_model.", "a_b"),
        outputs=_DIT,
    ),
    "Lumina 2": Kind(
        "Lumina 2",
        MODELS["Lumina 2"][0],
        loaders.Lumina2LoraLoaderMixin,
        "Alpha-VLLM/Lumina-Image-2.0",
    ),
    "Anima": Kind(
        "Anima",
        _anima,
        loaders.AnimaLoraLoaderMixin,
        "circlestone-labs/Anima",
        ("diffusion_model.", "a_b"),
        outputs=_DIT,
    ),
    "SDXL": Kind(
        "SDXL",
        MODELS["SDXL"][0],
        loaders.StableDiffusionXLLoraLoaderMixin,
        "stabilityai/stable-diffusion-xl-base-1.0",
        component="unet",
        options={"unet_config": SimpleNamespace(layers_per_block=2)},
    ),
    "SD": Kind(
        "Stable Diffusion 1 or 2",
        MODELS["Stable Diffusion 1 or 2"][0],
        loaders.StableDiffusionLoraLoaderMixin,
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        component="unet",
    ),
    "MiniMax-H3": Kind(
        "MiniMax-H3",
        MODELS["MiniMax-H3"][0],
        loaders.MiniMaxH3LoraLoaderMixin,
        "MiniMaxAI/MiniMax-H3",
        ("diffusion_model.", "a_b"),
        outputs=_DIT,
    ),
    "Krea 2": Kind(
        "Krea 2",
        MODELS["Krea 2"][0],
        loaders.Krea2LoraLoaderMixin,
        "krea-ai/krea-2",
        ("diffusion_model.", "a_b"),
        outputs=_DIT,
    ),
}

# How files with diffusers' names may begin and end; `*` for the component.
DIFFUSERS_FORMS: tuple[tuple[str, str], ...] = (
    ("*.", "a_b"),
    ("*.", "dots"),
    ("lora_unet_", "down_up"),
    ("lora_transformer_", "down_up"),
    ("lycoris_", "down_up"),
    ("diffusion_model.", "a_b"),
    ("base_model.model.", "a_b"),
    ("", "a_b"),
    ("", "default"),
    ("pipe.dit.", "default"),
)
AUTHORS_FORMS: tuple[tuple[str, str], ...] = (
    ("diffusion_model.", "a_b"),
    ("diffusion_model.", "down_up"),
    ("lora_unet_", "down_up"),
    ("lora_unet__", "down_up"),
    ("", "down_up"),
    ("pipe.dit.", "default"),
    ("model.diffusion_model.", "a_b"),
)


@dataclass(frozen=True)
class Case:
    """A zoo, what it comes to, and how it is merged.

    Attributes:
        kind: Name of the model.
        files: Tensors of each adapter.
        said: What each is, for people.
        wanted: The sum of its updates, by diffusers' names.
        options: Of the merge.
        layout: The layout asked for.
    """

    kind: str
    files: tuple[dict[str, Tensor], ...]
    said: tuple[str, ...]
    wanted: Updates
    options: Mapping[str, Any]
    layout: str


@cache
def _weights(kind: str) -> Mapping[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = KINDS[kind].model()
    return {
        name.removesuffix(".weight"): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name.endswith(".weight") and tensor.ndim in (2, 4)
    }


@cache
def _modules(kind: str, side: str) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the weights of modules, by their path on a side."""
    spec, weights = KINDS[kind], _weights(kind)
    table = BY_NAME[spec.table]
    found: dict[str, tuple[int, ...]] = {}
    for path, shape in weights.items():
        reading = table.read(path)
        if reading is None or (reading.side != "diffusers" and not reading.row.is_same):
            continue
        if any(other.endswith(f".{path}") for other in weights):
            continue  # PEFT takes the other for it too, and diffusers warns of that
        if kind == "Wan" and path.endswith(("add_k_proj", "add_v_proj")):
            continue  # of which diffusers' converter takes both or none
        if side == "diffusers":
            found[path] = shape
            continue
        row = reading.row
        if any(part in row.original for part in spec.left_out):
            continue
        parts = [reading.path("diffusers", n) for n in range(len(row.diffusers))]
        if all(part in weights for part in parts):
            height = sum(weights[part][0] for part in parts)
            found[reading.path("original")] = (height, *shape[1:])
    return found


def draw(seed: int, kind: str = "") -> Case:
    """A case.

    Args:
        seed: Another case for each.
        kind: Name of the model; drawn if empty.
    """
    rng = random.Random(seed)
    kind = kind or rng.choice(sorted(KINDS))
    spec = KINDS[kind]
    files, said = [], []
    total: dict[str, np.ndarray] = {}
    shared = rng.sample(sorted(_modules(kind, "diffusers")), 2)
    for number in range(rng.randint(1, 4)):
        side = rng.choice(["diffusers", "authors"]) if spec.authors else "diffusers"
        modules = _modules(kind, side)
        chosen = rng.sample(sorted(modules), min(len(modules), rng.randint(2, 6)))
        if not any("block" in path for path in chosen):  # as Wan's converter asks for
            chosen.append(
                next(path for path in sorted(modules) if "block" in path or ".0." in path)
            )
        if side == "diffusers":
            chosen = sorted({*chosen, *shared})
        prefix, ends = (
            rng.choice(AUTHORS_FORMS) if side == "authors" else rng.choice(DIFFUSERS_FORMS)
        )
        dtype, alpha = rng.choice(sorted(DTYPES)), rng.choice(ALPHAS)
        is_mixed = rng.random() < 0.5
        generator = torch.Generator().manual_seed(1000 * seed + number)
        factors = {
            path: _pair(
                modules[path], rng.randint(1, 4) if is_mixed else 3, generator, DTYPES[dtype]
            )
            for path in chosen
        }
        alphas = {path: _alpha(alpha, len(a), rng) for path, (a, _) in factors.items()}
        begin = prefix.replace("*", spec.component)
        files.append(_file(factors, alphas, begin, ends))
        said.append(f"{begin}{chosen[0]} {ends} {dtype} alpha {alpha}{' mixed' * is_mixed}")
        for path, update in _updates(spec, side, factors, alphas).items():
            total[path] = total[path] + update if path in total else update
    method = rng.choice(["concat", "svd"])
    options = {"method": method, "rank": 4096 if method == "concat" else 64}
    options |= {"compact": rng.random() < 0.5, "dtype": "F32"}
    if method == "svd":
        options["compact"] = True
    return Case(kind, tuple(files), tuple(said), total, options, rng.choice(spec.outputs))


def _pair(
    shape: tuple[int, ...], rank: int, generator: torch.Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    ones = (1,) * (len(shape) - 2)
    a = 0.5 * torch.randn(rank, *shape[1:], generator=generator)
    b = 0.5 * torch.randn(shape[0], rank, *ones, generator=generator)
    return a.to(dtype), b.to(dtype)


def _alpha(form: str, rank: int, rng: random.Random) -> Tensor | None:
    values = {
        "scalar": torch.tensor(2.0),
        "vector": torch.tensor([1.5]),
        "half": torch.tensor(0.5, dtype=torch.float16),
        "integer": torch.tensor(4, dtype=torch.int64),
        "each its own": torch.tensor(float(rng.choice([0.25, 1, 3]))),
    }
    return values.get(form)


def _file(
    factors: Mapping[str, tuple[Tensor, Tensor]],
    alphas: Mapping[str, Tensor | None],
    prefix: str,
    ends: str,
) -> dict[str, Tensor]:
    down, up = ENDS[ends]
    tensors: dict[str, Tensor] = {}
    for path, (a, b) in factors.items():
        module = prefix + (path.replace(".", "_") if prefix.endswith("_") else path)
        tensors |= {module + down: a, module + up: b}
        if (alpha := alphas[path]) is not None:
            tensors[f"{module}.alpha"] = alpha
    return tensors


def _updates(
    spec: Kind,
    side: str,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    alphas: Mapping[str, Tensor | None],
) -> Updates:
    """Updates by diffusers' paths, the authors' by diffusers' converter."""
    scaled: dict[str, tuple[Tensor, Tensor]] = {}
    for path, (a, b) in factors.items():
        alpha = alphas[path]
        scale = 1.0 if alpha is None else float(alpha) / len(a)
        scaled[path] = (a.double() * scale, b.double())
    if side == "diffusers":
        return {p: (b.flatten(1) @ a.flatten(1)).numpy() for p, (a, b) in scaled.items()}
    assert spec.authors
    prefix, ends = spec.authors
    converted = through(
        spec.loader, _file(scaled, dict.fromkeys(scaled), prefix, ends), **spec.options
    )
    return {name.removeprefix(f"{spec.component}."): update for name, update in converted.items()}


def merged(case: Case, root: Path) -> tuple[Updates, Any]:
    """Merges the zoo of a case in a directory; what diffusers loads of it, and the record."""
    for number, tensors in enumerate(case.files):
        write(root / "zoo" / f"{number}.safetensors", tensors)
    spec = KINDS[case.kind]
    record = lego_ray.merge(
        root / "zoo",
        output=root / "out",
        layout=case.layout,
        base_model=spec.base,
        runner="inline",
        **case.options,
    )
    return loaded(spec, case.layout, root / "out"), record


def loaded(spec: Kind, layout: str, output: Path) -> Updates:
    """The update of every module, once diffusers or PEFT has loaded a merge into a tiny model."""
    model: Any = spec.model()
    if layout == "peft":
        model = PeftModel.from_pretrained(model, str(output)).base_model.model
    else:
        found = spec.loader.lora_state_dict(
            load(output) if spec.options.get("return_alphas") else str(output),
            **spec.options,
            **({} if spec.options.get("return_alphas") else {"return_lora_metadata": True}),
        )
        more: dict[str, Any] = {"low_cpu_mem_usage": False}
        state = found
        if isinstance(found, tuple):
            state, metadata = found[0], found[-1]
            if spec.component == "unet" or spec.options.get("return_alphas"):
                more["network_alphas"] = found[1]
            if not spec.options.get("return_alphas"):
                more["metadata"] = metadata
        if spec.component == "unet":
            spec.loader.load_lora_into_unet(state, unet=model, **more)
        else:
            spec.loader.load_lora_into_transformer(state, transformer=model, **more)
    out: Updates = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and getattr(module, "scaling", None):
            [adapter] = module.scaling
            out[name] = module.get_delta_weight(adapter).detach().double().flatten(1).numpy()
    return out
