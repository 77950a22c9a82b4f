"""Which layout an adapter is in, by its configuration and tensor keys.

The module in this room with the name of a layout reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.diffusers_keys import READ_COMPONENTS, component_of, plain_path
from lego_ray.formats.image_paths import is_image_file
from lego_ray.formats.kinds import ENDS as KIND_ENDS
from lego_ray.formats.kinds import parse_kind
from lego_ray.formats.peft_config import WEIGHTS_NAME
from lego_ray.formats.refusals import field_refused
from lego_ray.formats.suffixes import SUFFIXES, XLABS, any_of, parse_suffix
from lego_ray.formats.wrappers import unwrapped


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to store adapters.

    Attributes:
        name: As in the catalog's `format` column.
        key: Matches, from the start, a tensor key that only this layout has.
        written_as: The layout a merge of such adapters is written in; empty for one that is not read.
        hint: What to do with one that is not read.
        has_config: Whether `adapter_config.json` stands beside the weights; or else each file is an
            adapter.
        weights_names: What the weights beside a configuration may be called.
        has_full_weights: Whether its adapters may carry tensors that are not low-rank, so that its
            reader gets an option for them.
        has_base_kinds: Whether its adapters may be of a kind whose update is computed with the base
            model, so that its reader gets to know whether one was given.
    """

    name: str
    key: re.Pattern[str]
    written_as: str = ""
    hint: str = ""
    has_config: bool = False
    weights_names: tuple[str, ...] = ()
    has_full_weights: bool = False
    has_base_kinds: bool = False

    @property
    def module(self) -> ModuleType:
        """The module that reads it, whose `read_adapter` takes headers."""
        return import_module(f"lego_ray.formats.{self.name}")


# Prefixes of names with their dots, of which none is a component of diffusers' pipelines.
_COMFYUI = (
    r"(?:model\.)?diffusion_model\.",
    r"pipe\.dit\.",
    r"conditional_transformer\.",
    # OneTrainer's names of Anima, as its authors' checkpoint has them
    r"net\.",
    r"text_encoders\.\w+\.transformer\.",
)

# The first that matches any key wins.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "peft",
        re.compile(r"base_model\.model\."),
        "peft",
        has_config=True,
        weights_names=(WEIGHTS_NAME, "adapter_model.bin"),
        has_full_weights=True,
        has_base_kinds=True,
    ),
    Layout(
        "kohya",
        re.compile(r"(lora|lycoris|oft)_(?![AB]\.)\w+\.|.+\.lora_(down|up)\.weight$"),
        "kohya",
        has_full_weights=True,
        has_base_kinds=True,
    ),
    Layout("xlabs", re.compile(rf"(?:{any_of(XLABS)})$"), "xlabs", has_full_weights=True),
    Layout(
        "comfyui",
        re.compile(rf"(?=(?:{'|'.join(_COMFYUI)}))(?:{any_of(*SUFFIXES)}|.+{KIND_ENDS})$"),
        "comfyui",
        has_full_weights=True,
        has_base_kinds=True,
    ),
    Layout(
        "diffusers",
        re.compile(
            rf"({'|'.join(READ_COMPONENTS)})\..+\.(lora_[AB]|(lokr|hada)_\w+|lora\.(down|up))\b|"
            r".+(_lora|\.lora_linear_layer)\.(down|up)\.weight$"
        ),
        "diffusers",
        has_full_weights=True,
        has_base_kinds=True,
    ),
    Layout(
        "torchtune",
        re.compile(r".+\.lora_[ab]\.weight$"),
        hint="Take adapter_model.safetensors and adapter_config.json, which torchtune writes for PEFT.",
    ),
    Layout(
        "megatron",
        re.compile(r".+\.(adapter|\w*lora\w*adapter)(\.adapter_\w+)?\.linear_(in|out)\.weight\d*$"),
        hint=(
            "Export it to PEFT's layout first: with AutoBridge.export_adapter_ckpt of Megatron-Bridge, "
            "or with the exporter of the program that trained it."
        ),
    ),
    Layout(
        "mlx",
        re.compile(r".+\.lora_[ab]$"),
        "peft",
        has_config=True,
        weights_names=("adapters.safetensors",),
        has_base_kinds=True,
    ),
    Layout(
        "mlx-vlm",
        re.compile(r".+\.[AB]$"),
        hint=(
            "Convert it to PEFT's layout, with the scaling that the mlx-vlm which trained it applies, "
            "or leave it out with --exclude."
        ),
    ),
)
# Fields of mlx-vlm's configuration, all of them.
_MLX_VLM = frozenset(("rank", "alpha", "dropout"))

WRITTEN_AS: Mapping[str, str] = {
    layout.name: layout.written_as for layout in LAYOUTS if layout.written_as
}


@dataclass(frozen=True, slots=True)
class Description:
    """What the reference says of a layout, beside what its `Layout` says.

    Attributes:
        keys: Examples of its tensor keys, shortened.
        alpha: Where alpha or the scale comes from.
        tools: Who writes it.
    """

    keys: tuple[str, ...]
    alpha: str
    tools: str


_OF_HEADER = "`lora_adapter_metadata` in its header or `.alpha` tensors, else the rank"
_OF_CONFIG = (
    "`lora_adapter_metadata` in its header, an `adapter_config.json` beside it or `.alpha` tensors, "
    "else the rank"
)
_OF_TENSOR = "`.alpha` tensors, else the rank"

# By the name of a layout; a test holds that none of `LAYOUTS` is missing.
DESCRIPTIONS: Mapping[str, Description] = {
    "peft": Description(
        ("base_model.model...lora_A.weight",), "`adapter_config.json`", "PEFT and trainers on it"
    ),
    "kohya": Description(
        ("lora_unet_...lora_down.weight", "lora_te1_...", "lora_transformer_...", "lycoris_..."),
        _OF_TENSOR,
        "kohya's sd-scripts, musubi-tuner, LyCORIS, OneTrainer",
    ),
    "xlabs": Description(
        ("double_blocks...processor.qkv_lora1.down.weight",), _OF_TENSOR, "XLabs' trainer of Flux"
    ),
    "comfyui": Description(
        ("diffusion_model...lora_A.weight", "pipe.dit...", "text_encoders.clip_l.transformer..."),
        _OF_CONFIG,
        "ai-toolkit, diffusion-pipe, ComfyUI, DiffSynth",
    ),
    "diffusers": Description(
        ("unet...lora_A.weight", "transformer...", ".lora.down.", ".processor.to_q_lora.down."),
        _OF_HEADER,
        "diffusers, SimpleTuner",
    ),
    "torchtune": Description(("layers...lora_a.weight",), "`adapter_config.json`", "torchtune"),
    "megatron": Description(
        ("decoder...adapter.linear_in.weight",), "its configuration", "NeMo, Megatron-Bridge"
    ),
    "mlx": Description(
        ("model.layers...lora_a",),
        "its `scale`; times alpha over rank where `lora_parameters` has an `alpha` and mlx-lm of April "
        "to June 2024, which used it, may have written the file. A note says which",
        "mlx-lm",
    ),
    "mlx-vlm": Description(("language_model...q_proj.A",), "`adapter_config.json`", "mlx-vlm"),
}


def layout_named(name: str) -> Layout:
    """The layout of that name, which is one of `LAYOUTS`."""
    return next(layout for layout in LAYOUTS if layout.name == name)


def recognize(keys: Iterable[str]) -> Layout | None:
    """The layout these tensor keys are in, or None."""
    keys = [unwrapped(key) for key in keys]
    found = next((layout for layout in LAYOUTS if any(map(layout.key.match, keys))), None)
    if found is None or found.name == "diffusers":
        sites = [plain_path(factor) for factor in map(parse_suffix, keys) if factor]
        sites += [kind.stem for kind in map(parse_kind, keys) if kind]
        is_bare = not any(component_of(site) in READ_COMPONENTS for site in sites)
        if is_bare and is_image_file(keys):
            return layout_named("comfyui")
    return found


def check_layout(config: Mapping[str, object] | None, keys: Iterable[str], where: str) -> Layout:
    """Passes an adapter in a layout that is read.

    Args:
        config: `adapter_config.json`, parsed, or None where there is none.
        keys: The tensor keys; may be empty where they are not read yet.
        where: The adapter, for the error.

    Returns:
        The layout.

    Raises:
        UnsupportedAdapter: If the layout is another one; named, with what to do.
        MalformedAdapter: If it is not a layout known, or lacks a part of it.
    """
    keys = [unwrapped(key) for key in keys]
    found = recognize(keys)
    if found is None and config is not None and config.keys() == _MLX_VLM:
        found = layout_named("mlx-vlm")
    if found is not None and not found.written_as:
        problem = f"it is in {found.name}'s layout, which is not read"
        raise UnsupportedAdapter(where, problem, found.hint)
    if config is None:
        return _without_config(found, keys, where)
    if config.get("swift_type"):
        raise field_refused("swift_type", where)
    if "peft_type" in config:
        return _beside_config("peft", _as_peft(found, keys, where), keys, where)
    if "fine_tune_type" in config or "lora_parameters" in config:
        return _beside_config("mlx", found, keys, where)
    problem = "its configuration has no peft_type, so it is not PEFT's"
    raise MalformedAdapter(where, problem, 'Add "peft_type": "LORA" if it is a LoRA of PEFT.')


_OF_IMAGES = (
    "If it is of an image model, whose alpha is its rank where no tensor gives it, let its keys begin "
    "with diffusion_model. instead."
)


def _without_config(found: Layout | None, keys: list[str], where: str) -> Layout:
    if found is None:
        problem = f"its keys are of no layout known here (such as {next(iter(keys), 'none')})"
        raise MalformedAdapter(where, problem, f"Save it again with PEFT. {_OF_IMAGES}")
    is_named = where.rpartition("/")[2] in found.weights_names
    if found.name == "peft" and not is_named and is_image_file(keys):
        return layout_named("comfyui")
    if found.name in ("peft", "mlx"):
        problem = f"it is {found.name}'s and has no adapter_config.json, so its scaling is unknown"
        hint = "Copy the file beside the weights."
        if found.name == "peft":
            hint += f" {_OF_IMAGES}"
        raise MalformedAdapter(where, problem, hint)
    return found


def _as_peft(found: Layout | None, keys: list[str], where: str) -> Layout | None:
    """PEFT's keys must have its prefix, without which PEFT loads them and applies none.

    GPT-2's own modules start with `transformer.` as diffusers' do, so the configuration decides.
    """
    if found is None or found.name in ("diffusers", "comfyui"):
        bare = next((k for k in keys if ".lora_A." in k or ".lora_embedding_A" in k), None)
        if bare is not None:
            problem = (
                f"its keys lack the prefix base_model.model. (such as {bare}); PEFT would load it "
                "without applying any of it"
            )
            raise MalformedAdapter(where, problem, "Rename the keys, or save it again with PEFT.")
    return found


def _beside_config(name: str, found: Layout | None, keys: list[str], where: str) -> Layout:
    """The layout that a configuration names, if the keys agree."""
    if found is not None and found.name != name:
        problem = (
            f"it is in {found.name}'s layout, and the adapter_config.json beside it is {name}'s"
        )
        hint = "Put each adapter into a directory of its own; kohya's and diffusers' have no such file."
        raise UnsupportedAdapter(where, problem, hint)
    if found is None and keys:
        problem = f"its keys are of no layout known here (such as {keys[0]})"
        raise MalformedAdapter(where, problem, "Save it again from the program that made it.")
    return layout_named(name)
