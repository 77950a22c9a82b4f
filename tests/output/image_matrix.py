"""Zoos of tiny LoRAs of image models, drawn at random over layouts, types, alphas and ranks.

A case has an architecture, adapters in layouts of its two sets of names, where they lie, and what a
merge is asked for. The updates are float64 products; those under the names of a model's authors are what
diffusers' own converter makes of the file, or, where it has none for LoRAs, what its converter of
checkpoints makes of weights that are these updates. A merge is loaded by diffusers into a tiny model.
Nothing of lego_ray computes them, only its tables say which names there are.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.loaders import lora_pipeline as loaders
from diffusers.loaders import single_file_utils
from peft import PeftModel
from torch import Tensor, nn

import lego_ray
from lego_ray.formats.architectures import ARCHITECTURES
from tests.formats.test_architectures import MODELS, UNTYPED, Whole
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
# Elements of the largest update that a case has: a few models are known by widths that no tiny one has.
MOST = 3 << 20
# Of names that diffusers saves itself, also PEFT's configuration in the header.
HEADERS = ("header", "header, by module", "header, rsLoRA")
# Where the adapters of a zoo lie: files of one folder, each in its own as diffusers saves it, or named.
PLACES = ("folder", "folders", "files")
OF_CHECKPOINTS: Any = single_file_utils


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
        left_out: Expressions of paths that this converter does not take, or takes at one width alone.
        checkpoint: Converts a whole model, where diffusers has no converter of LoRAs with these names.
        widths: Rows that this converter takes for the parts of modules that end in this; the rows of a
            tiny model are put among them, and taken out again.
        spell: What else the authors' files call a path.
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
    checkpoint: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]] | None = None
    widths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spell: Callable[[str], str] = str
    outputs: tuple[str, ...] = ("diffusers", "peft")
    component: str = "transformer"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_authors(self) -> bool:
        """Whether diffusers converts the authors' names."""
        return bool(self.authors or self.checkpoint)


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


def _ideogram() -> nn.Module:
    made: nn.Module = UNTYPED.Ideogram4Transformer2DModel(
        in_channels=4,
        num_layers=1,
        attention_head_dim=256,
        num_attention_heads=18,
        intermediate_size=16,
        adaln_dim=512,
        llm_features_dim=8,
        mrope_section=(64, 32, 32),
    )
    return made


def _underscored(path: str) -> str:
    """HunyuanVideo's own names of attention, of which ComfyUI has others."""
    return path.replace("img_attn.", "img_attn_").replace("txt_attn.", "txt_attn_")


def _of_blocks(convert: Any) -> Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]:
    """A converter of transformers, as `Kind.checkpoint` has it."""
    return lambda state, model: convert(Whole(state))


def _of_unet(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    prefix = "model.diffusion_model."
    whole = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    # It takes some biases whether they are there or not.
    biases = {name.removesuffix("weight") + "bias": torch.zeros(1) for name in whole}
    made: Any = model
    converted: Mapping[str, Tensor] = OF_CHECKPOINTS.convert_ldm_unet_checkpoint(
        {**whole, **biases}, dict(made.config)
    )
    return converted


_FLUX = "Flux.1, Chroma or HunyuanVideo"
_LINEAR1 = {"linear1": (3072, 3072, 3072, 4 * 3072)}
_OUTSIDE_OF_IDEOGRAM = ("input_proj", "llm_cond_proj", "t_embedding", "adaln_proj", "final_layer")
_DIT = ("diffusers", "comfyui", "peft")
KINDS: Mapping[str, Kind] = {
    "Flux.1": Kind(
        _FLUX,
        MODELS[_FLUX][0],
        loaders.FluxLoraLoaderMixin,
        "black-forest-labs/FLUX.1-dev",
        ("lora_unet_", "down_up"),
        # whose widths are in the converter, or names of other models and tools
        (r"linear1", r"fc1", r"fc2", r"processor", r"\.linear", r"_in\.mlp"),
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
        checkpoint=lambda state, model: (
            OF_CHECKPOINTS.convert_hunyuan_video_transformer_to_diffusers(
                {_underscored(path): tensor for path, tensor in state.items()}
            )
        ),
        widths=_LINEAR1,
        spell=_underscored,
        # names of Flux.1's and of other tools
        left_out=(
            r"processor",
            r"(?:img|txt)_mlp\.\d",
            r"\.lin$",
            r"(?:time|guidance)_in\.\w+_layer",
        ),
    ),
    "Chroma": Kind(
        _FLUX,
        MODELS[_FLUX][1],
        loaders.FluxLoraLoaderMixin,
        "lodestones/Chroma1-HD",
        checkpoint=_of_blocks(OF_CHECKPOINTS.convert_chroma_transformer_checkpoint_to_diffusers),
        widths=_LINEAR1,
        left_out=(r"processor", r"\.fc\d", r"mod(?:ulation)?\.linear", r"_in\.mlp"),
        options={"return_alphas": True},
    ),
    "SD3": Kind(
        "Stable Diffusion 3",
        MODELS["Stable Diffusion 3"][0],
        loaders.SD3LoraLoaderMixin,
        "stabilityai/stable-diffusion-3.5-large",
        checkpoint=_of_blocks(OF_CHECKPOINTS.convert_sd3_transformer_checkpoint_to_diffusers),
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
        checkpoint=_of_blocks(OF_CHECKPOINTS.convert_lumina2_to_diffusers),
        widths={"qkv": (2304, 768, 768)},
    ),
    "Ideogram 4": Kind(
        "Ideogram 4",
        _ideogram,
        loaders.Ideogram4LoraLoaderMixin,
        "ideogram-ai/ideogram-4",
        ("diffusion_model.", "a_b"),
        # outside of the blocks, which this converter refuses
        _OUTSIDE_OF_IDEOGRAM,
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
        checkpoint=_of_unet,
        component="unet",
        options={"unet_config": SimpleNamespace(layers_per_block=2)},
    ),
    "SD": Kind(
        "Stable Diffusion 1 or 2",
        MODELS["Stable Diffusion 1 or 2"][0],
        loaders.StableDiffusionLoraLoaderMixin,
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        checkpoint=_of_unet,
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
        headers: Metadata of each one's file.
        said: What each is, for people.
        wanted: The sum of its updates, by diffusers' names.
        place: Where the adapters lie, one of `PLACES`.
        compact: Whether the merge leaves out rows of zeros.
        layout: The layout asked for.
    """

    kind: str
    files: tuple[dict[str, Tensor], ...]
    headers: tuple[Mapping[str, str], ...]
    said: tuple[str, ...]
    wanted: Updates
    place: str
    compact: bool
    layout: str

    def options(self, method: str) -> dict[str, Any]:
        """Of a merge that loses nothing of the sum.

        Args:
            method: `concat` or `svd`.
        """
        rank = 4096 if method == "concat" else 64
        compact = self.compact or method == "svd"
        return {"method": method, "rank": rank, "compact": compact, "dtype": "F32"}


def _model(kind: str, device: str = "meta") -> nn.Module:
    """A model without values, of which a LoRA needs none."""
    with torch.device("meta"):
        model = KINDS[kind].model()
    return model if device == "meta" else model.to_empty(device=device)


@cache
def _weights(kind: str) -> Mapping[str, tuple[int, ...]]:
    model = _model(kind)
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
        if not reading.fits(shape[1], shape[0]) or np.prod(shape) > MOST:
            continue  # of no model as narrow as this one, or too large for a test
        if any(other.endswith(f".{path}") for other in weights):
            continue  # PEFT takes the other for it too, and diffusers warns of that
        if kind == "Wan" and path.endswith(("add_k_proj", "add_v_proj")):
            continue  # of which diffusers' converter takes both or none
        if side == "diffusers":
            found[path] = shape
            continue
        for row in (row for row in table.rows if row.diffusers == reading.row.diffusers):
            named = replace(reading, row=row)
            if any(re.search(part, named.path("original")) for part in spec.left_out):
                continue
            parts = [named.path("diffusers", n) for n in range(len(row.diffusers))]
            if all(part in weights for part in parts):
                height = sum(weights[part][0] for part in parts)
                found[named.path("original")] = (height, *shape[1:])
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
    files, headers, said = [], [], []
    total: dict[str, np.ndarray] = {}
    shared = rng.sample(sorted(_modules(kind, "diffusers")), 2)
    for number in range(rng.randint(1, 4)):
        side = rng.choice(["diffusers", "authors"]) if spec.has_authors else "diffusers"
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
        dtype = rng.choice(sorted(DTYPES))
        has_header = (prefix, ends) == ("*.", "a_b")
        alpha = rng.choice((*ALPHAS, *HEADERS) if has_header else ALPHAS)
        is_mixed = rng.random() < 0.5
        generator = torch.Generator().manual_seed(1000 * seed + number)
        factors = {
            path: _pair(
                modules[path], rng.randint(1, 4) if is_mixed else 3, generator, DTYPES[dtype]
            )
            for path in chosen
        }
        given = _alphas(alpha, {path: len(a) for path, (a, _) in factors.items()}, rng)
        spell = rng.choice((str, spec.spell)) if side == "authors" else str
        begin = prefix.replace("*", spec.component)
        named = {spell(path): pair for path, pair in factors.items()}
        files.append(_file(named, {spell(p): t for p, t in given.tensors.items()}, begin, ends))
        headers.append(given.header(spec.component))
        shown = spell(chosen[0])
        said.append(f"{begin}{shown} {ends} {dtype} alpha {alpha}{' mixed' * is_mixed}")
        for path, update in _updates(kind, side, factors, given.scales).items():
            total[path] = total[path] + update if path in total else update
    return Case(
        kind,
        tuple(files),
        tuple(headers),
        tuple(said),
        total,
        rng.choice(PLACES),
        rng.random() < 0.5,
        rng.choice(spec.outputs),
    )


def _pair(
    shape: tuple[int, ...], rank: int, generator: torch.Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    ones = (1,) * (len(shape) - 2)
    a = 0.5 * torch.randn(rank, *shape[1:], generator=generator)
    b = 0.5 * torch.randn(shape[0], rank, *ones, generator=generator)
    return a.to(dtype), b.to(dtype)


@dataclass(frozen=True)
class Alphas:
    """What a file says of its scales.

    Attributes:
        scales: Of each module, by which B A is multiplied.
        tensors: Of each module that has one.
        config: PEFT's configuration in the header; empty for none.
    """

    scales: Mapping[str, float]
    tensors: Mapping[str, Tensor]
    config: Mapping[str, object]

    def header(self, component: str) -> Mapping[str, str]:
        """The file's metadata."""
        if not self.config:
            return {}
        named = {f"{component}.{name}": value for name, value in self.config.items()}
        return {"format": "pt", "lora_adapter_metadata": json.dumps(named)}


def _alphas(form: str, ranks: Mapping[str, int], rng: random.Random) -> Alphas:
    if form == "none":
        return Alphas(dict.fromkeys(ranks, 1.0), {}, {})
    if form in HEADERS:
        return _in_header(form, ranks, rng)
    tensors = {
        path: {
            "scalar": torch.tensor(2.0),
            "vector": torch.tensor([1.5]),
            "half": torch.tensor(0.5, dtype=torch.float16),
            "integer": torch.tensor(4, dtype=torch.int64),
            "each its own": torch.tensor(float(rng.choice([0.25, 1, 3]))),
        }[form]
        for path in ranks
    }
    return Alphas({path: float(tensors[path]) / r for path, r in ranks.items()}, tensors, {})


def _in_header(form: str, ranks: Mapping[str, int], rng: random.Random) -> Alphas:
    """PEFT's configuration as diffusers saves it; the rank of the first module is that of most."""
    usual, alpha = next(iter(ranks.values())), rng.choice([1, 2.5, 8])
    own = {path: rng.choice([0.5, 3]) for path in list(ranks)[1:]} if "by module" in form else {}
    is_rs = "rsLoRA" in form
    config = {
        "r": usual,
        "lora_alpha": alpha,
        "rank_pattern": {path: r for path, r in ranks.items() if r != usual},
        "alpha_pattern": own,
        "use_rslora": is_rs,
        "target_modules": list(ranks),
    }
    scales = {path: own.get(path, alpha) / (r**0.5 if is_rs else r) for path, r in ranks.items()}
    return Alphas(scales, {}, config)


def _file(
    factors: Mapping[str, tuple[Tensor, Tensor]],
    alphas: Mapping[str, Tensor],
    prefix: str,
    ends: str,
) -> dict[str, Tensor]:
    down, up = ENDS[ends]
    tensors: dict[str, Tensor] = {}
    for path, (a, b) in factors.items():
        module = prefix + (path.replace(".", "_") if prefix.endswith("_") else path)
        tensors |= {module + down: a, module + up: b}
        if path in alphas:
            tensors[f"{module}.alpha"] = alphas[path]
    return tensors


def _updates(
    kind: str,
    side: str,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    scales: Mapping[str, float],
) -> Updates:
    """Updates by diffusers' paths, the authors' by diffusers' converters."""
    spec = KINDS[kind]
    scaled = {p: (a.double() * scales[p], b.double()) for p, (a, b) in factors.items()}
    if side == "diffusers" or spec.checkpoint:
        products = {p: b.flatten(1) @ a.flatten(1) for p, (a, b) in scaled.items()}
        if side == "authors":
            return _by_checkpoint(kind, products)
        return {path: product.numpy() for path, product in products.items()}
    assert spec.authors
    prefix, ends = spec.authors
    converted = through(spec.loader, _file(scaled, {}, prefix, ends), **spec.options)
    return {name.removeprefix(f"{spec.component}."): update for name, update in converted.items()}


def _by_checkpoint(kind: str, products: Mapping[str, Tensor]) -> Updates:
    """Updates by diffusers' paths, of a model whose weights are these and zeros elsewhere."""
    spec, weights = KINDS[kind], _weights(kind)
    assert spec.checkpoint
    table = BY_NAME[spec.table]
    state: dict[str, Tensor] = {}
    for path, shape in _modules(kind, "authors").items():
        weight = products.get(path, torch.zeros(shape[0], int(np.prod(shape[1:]))))
        for end, widths in spec.widths.items():
            if path.endswith(end):
                reading = table.read(path)
                assert reading is not None
                parts = [reading.path("diffusers", n) for n in range(len(widths))]
                cut = torch.split(weight, [weights[part][0] for part in parts])
                rows = zip(cut, widths, strict=True)
                weight = torch.cat([_padded(part, width) for part, width in rows])
        state[f"{path}.weight"] = weight
    converted = spec.checkpoint(state, _model(kind))
    found = {name.removesuffix(".weight"): t for name, t in converted.items() if ".weight" in name}
    out = {p: t[: weights[p][0]] for p, t in found.items() if p in weights and torch.any(t)}
    return {path: t.double().flatten(1).numpy() for path, t in out.items()}


def _padded(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows, torch.zeros(count - len(rows), *rows.shape[1:], dtype=rows.dtype)])


def merged(case: Case, root: Path, method: str) -> tuple[Updates, Any]:
    """Merges the zoo of a case in a directory; what diffusers loads of it, and the record.

    Args:
        case: The case.
        root: The directory; the zoo is written once.
        method: `concat` or `svd`.
    """
    places = []
    for number, (tensors, header) in enumerate(zip(case.files, case.headers, strict=True)):
        name = "pytorch_lora_weights" if case.place == "folders" else f"{number}"
        folder = root / "zoo" / (f"{number}" if case.place == "folders" else "")
        places.append(folder / f"{name}.safetensors")
        if not places[-1].exists():
            write(places[-1], tensors, **header)
    spec = KINDS[case.kind]
    record = lego_ray.merge(
        places if case.place == "files" else root / "zoo",
        output=root / method,
        layout=case.layout,
        base_model=spec.base,
        runner="inline",
        **case.options(method),
    )
    return loaded(case.kind, case.layout, root / method), record


def loaded(kind: str, layout: str, output: Path) -> Updates:
    """The update of every module, once diffusers or PEFT has loaded a merge into a tiny model."""
    spec = KINDS[kind]
    model: Any = _model(kind, "cpu")
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
