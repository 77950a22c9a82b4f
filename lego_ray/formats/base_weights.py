"""The weights of a base model: which files of a folder hold them, and whether they are plain numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter, UnusableBase
from lego_ray.formats.forms import Form, Table, read_as, sentence_of
from lego_ray.formats.strict_json import parse_object

INDEX_ENDING = ".index.json"
PIPELINE = "model_index.json"
CONFIG = "config.json"
# What transformers and diffusers call the weights of a model, in the order they look for them.
NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors")

# Types whose sums are a model's: PEFT adds to weights of these as they are.
PLAIN_DTYPES = ("F32", "F16", "BF16")

# Endings of files with weights, in types that are not read or in copies of other precision.
_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|h5|msgpack|onnx|onnx_data|ot|tflite|npz|pkl|pickle|mlmodel)$"
    r"|\.safetensors\.index(\.\w+)?\.json$|\.safetensors\.\w+\.index\.json$|\.bin\.index\.json$",
    re.IGNORECASE,
)
# Tensors that only a quantized layer has.
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|nested_absmax|nested_quant_map|weight_format"
    r"|weight_packed|weight_scale|weight_scale_inv|scale_weight|w_scales|\w+_blocks|\w+_scales)$"
)
_ONE_FILE = (
    "Else load a checkpoint in one file with diffusers (from_single_file), call save_pretrained, and "
    "give that folder."
)
_UNQUANTIZED = "Give the model it was quantized from, in float32, float16 or bfloat16."


class _Index(Form):
    weight_map: Table[str]


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one folder that a model is loaded from.

    Attributes:
        names: Of the weights files, sorted.
        index: Name of the file that lists their tensors, or empty if there is one file.
    """

    names: tuple[str, ...]
    index: str = ""


def is_weights(name: str) -> bool:
    """Whether a file of a model holds weights, or lists files that do, by its name."""
    return _WEIGHTS.search(name) is not None


def find_weights(names: Collection[str]) -> WeightFiles | None:
    """The weights among the files of a folder; of several forms the one that is loaded by default.

    Args:
        names: Names of the files.

    Returns:
        The one file, or the index alone, whose names are still to be read; None if there are neither.
    """
    for name in NAMES:
        if name in names:
            return WeightFiles((name,))
        if name + INDEX_ENDING in names:
            return WeightFiles((), name + INDEX_ENDING)
    return None


def unread_weights(where: str, names: Iterable[str]) -> UnusableBase:
    """The error of a folder without weights that are read.

    Args:
        where: The folder.
        names: Names of its files.
    """
    found = sorted(name for name in names if is_weights(name))
    if not found:
        problem = f"there is no {NAMES[0]} and no {NAMES[0]}{INDEX_ENDING}, so it is not a model"
        hint = (
            "Give the base model's directory or repository, as transformers or diffusers save it."
        )
        return UnusableBase(where, problem, hint)
    problem = (
        f"its weights are in {', '.join(found[:3])}, and only safetensors by its usual name is read"
    )
    if any(".safetensors" in name for name in found):
        hint = (
            f"Give another revision of it, or save it again, so that it has {NAMES[0]}. Of an image "
            f"model's checkpoint in one file give the file itself, if its names are known. {_ONE_FILE}"
        )
    else:
        hint = (
            "Save it as safetensors: load it with transformers or diffusers, and call save_pretrained; "
            "or give a revision of it that has them, such as hf://owner/name@refs/pr/N."
        )
    return UnusableBase(where, problem, hint)


def in_one_file(where: str) -> UnusableBase:
    """The error of a base model that is given as a file.

    Args:
        where: The file.
    """
    problem = (
        "it is a file, and not a checkpoint in safetensors of an image model whose names are known: a "
        "base model is the folder that transformers or diffusers save"
    )
    return UnusableBase(where, problem, _ONE_FILE)


def parse_index(data: bytes, where: str) -> Mapping[str, str]:
    """The file that each tensor is in, by a model's index.

    Args:
        data: The index file's bytes.
        where: The index file, for the error.

    Raises:
        UnusableBase: If it is damaged, or names a file outside its folder.
    """
    try:
        fields = parse_object(data, where)
    except MalformedAdapter as error:
        raise UnusableBase(where, error.problem, _AGAIN) from None
    index = read_as(
        _Index,
        {"weight_map": fields.get("weight_map")},
        lambda f: UnusableBase(where, sentence_of(f), _AGAIN),
    )
    for name in set(index.weight_map.values()):
        if "/" in name or name in ("", ".", ".."):
            raise UnusableBase(where, f"it lists the file {name!r}, which is not beside it", _AGAIN)
    return index.weight_map


_AGAIN = "Download the base model again."


def check_config(config: Mapping[str, object], where: str) -> None:
    """Passes the configuration of a model that is not quantized.

    Args:
        config: `config.json`, parsed.
        where: It, for the error.

    Raises:
        UnusableBase: Otherwise.
    """
    inner = (value for value in config.values() if isinstance(value, dict))
    for fields in (config, *inner):
        quantized = fields.get("quantization_config")
        if quantized:
            method = quantized.get("quant_method") if isinstance(quantized, dict) else None
            kind = f" ({str(method)[:40]})" if method else ""
            problem = (
                f"the base model is quantized{kind}, so its weights are not plain numbers to add to"
            )
            raise UnusableBase(where, problem, _UNQUANTIZED)


def check_tensors(dtypes: Mapping[str, str], where: str) -> None:
    """Passes the tensors of a model that is not quantized.

    Args:
        dtypes: Element type of each tensor, by name.
        where: The model, for the error.

    Raises:
        UnusableBase: Otherwise; names the first tensor that shows it.
    """
    for name, dtype in sorted(dtypes.items()):
        if _QUANTIZED.search(name) or (
            dtype.startswith(("F8", "F4", "F6")) and name.endswith(".weight")
        ):
            problem = (
                f"the base model is quantized: it has {name} of type {dtype}, so that its weights are "
                "not plain numbers to add to"
            )
            raise UnusableBase(where, problem, _UNQUANTIZED)
