"""PEFT's configurations of a lone file: in its header, or in an `adapter_config.json` beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.kinds import parse_kind
from lego_ray.formats.layouts import layout_named
from lego_ray.formats.peft_config import CONFIG_NAME, PeftConfig, config_from
from lego_ray.formats.peft_lycoris import TYPES, as_lora
from lego_ray.formats.record import AdapterHeaders
from lego_ray.formats.refusals import check_config
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.suffixes import parse_suffix
from lego_ray.formats.wrappers import unwrapped

METADATA = "lora_adapter_metadata"


@dataclass(frozen=True, slots=True)
class LoneConfig:
    """A configuration of a component, or of the whole file.

    Attributes:
        settings: What it says, of a LoHa or LoKr as of a LoRA.
        is_lycoris: Whether it is of a LoHa or LoKr, whose tensors are then as PEFT stores them.
        place: Where it is, for errors.
        name: The field of the header, or the file.
    """

    settings: PeftConfig
    is_lycoris: bool
    place: str
    name: str


def is_lone_beside(config: Mapping[str, object], keys: Iterable[str]) -> bool:
    """Whether a weights file beside PEFT's configuration has ComfyUI's prefixes instead of PEFT's.

    diffusion-pipe writes both: what it trains is PEFT's, and the file is for ComfyUI.

    Args:
        config: `adapter_config.json`, parsed.
        keys: The tensor keys.
    """
    factors = [key for key in map(unwrapped, keys) if parse_suffix(key) or parse_kind(key)]
    key_of_comfyui = layout_named("comfyui").key
    return "peft_type" in config and bool(factors) and all(map(key_of_comfyui.match, factors))


def configs_of(headers: AdapterHeaders, without: Collection[str] = ()) -> dict[str, LoneConfig]:
    """The configuration of each component that has one, or of the whole file by an empty name.

    What the header says comes before a file beside it.

    Args:
        headers: The adapter's.
        without: Fields that are understood, so that they may be set.

    Raises:
        MalformedAdapter: If they cannot be read.
        UnsupportedAdapter: If one promises no plain LoRA, LoHa or LoKr.
    """
    if found := configs_in(headers.metadata, headers.weights, without):
        return found
    if headers.config is None:
        return {}
    place = f"{headers.uri.rstrip('/')}/{CONFIG_NAME}"
    return {"": _read(parse_object(headers.config, place), place, CONFIG_NAME, without)}


def configs_in(
    metadata: Mapping[str, str], where: str, without: Collection[str] = ()
) -> dict[str, LoneConfig]:
    """Those of `configs_of` that are in a header.

    Args:
        metadata: Of the file's header.
        where: The file, for the error.
        without: As for `configs_of`.

    Raises:
        MalformedAdapter: As `configs_of` does.
        UnsupportedAdapter: As `configs_of` does.
    """
    text = metadata.get(METADATA)
    if not text:
        return {}
    place = f"{where} ({METADATA})"
    found = parse_object(text.encode(), place)
    if "peft_type" in found:  # of one model, saved by itself (diffusers: save_lora_adapter)
        return {"": _read(found, place, METADATA, without)}
    fields: dict[str, dict[str, object]] = {}
    for key, value in found.items():
        component, dot, field = key.partition(".")
        if not dot:
            problem = f"{METADATA} has {key}, which names no component"
            hint = "Save it with the pipeline's save_lora_weights, which names them."
            raise MalformedAdapter(where, problem, hint)
        fields.setdefault(component, {"peft_type": "LORA"})[field] = value
    return {name: _read(config, place, METADATA, without) for name, config in fields.items()}


def _read(
    fields: Mapping[str, object], place: str, name: str, without: Collection[str]
) -> LoneConfig:
    is_lycoris = fields.get("peft_type") in TYPES
    plain = as_lora(fields) if is_lycoris else fields
    check_config(plain, place, without=without)
    return LoneConfig(config_from(plain, place), is_lycoris, place, name)
