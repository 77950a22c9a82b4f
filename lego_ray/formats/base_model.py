"""The base model that a safetensors header names, as image models' trainers write it."""

from __future__ import annotations

from collections.abc import Mapping

# The best first. The first is a family, such as `sdxl_base_v1-0`; the second the file someone trained
# on, under whatever name it had there.
FIELDS = ("ss_base_model_version", "ss_sd_model_name", "modelspec.architecture")


def base_model_in(metadata: Mapping[str, str]) -> str:
    """The base model's name in a header's metadata, or empty.

    Args:
        metadata: What the header says beside its tensors.
    """
    found = (metadata.get(field, "").removesuffix("/lora") for field in FIELDS)
    return next((name for name in found if name not in ("", "None")), "")


def architecture_in(metadata: Mapping[str, str], config: Mapping[str, object]) -> str:
    """What a header or a configuration calls the architecture of the base model, or empty.

    Args:
        metadata: What the header says beside its tensors.
        config: `adapter_config.json`, parsed, or empty.
    """
    mapping = config.get("auto_mapping")
    named = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if isinstance(named, str):
        return named
    found = (metadata.get(field, "") for field in ("modelspec.architecture", FIELDS[0]))
    return next((name.removesuffix("/lora") for name in found if name not in ("", "None")), "")
