"""The base model that a safetensors header names, as image models' trainers write it; its revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lego_ray.formats.record import AdapterRecord

# The best first. The first is a family, such as `sdxl_base_v1-0`; the second the file someone trained
# on, under whatever name it had there.
FIELDS = ("ss_base_model_version", "ss_sd_model_name", "modelspec.architecture")


# The field of PEFT's configuration with the commit, branch or tag of the base model to load; and the
# branch that is loaded without it.
REVISION = "revision"
_DEFAULT = "main"


def revision_in(config: Mapping[str, object]) -> dict[str, str]:
    """The base model's revision in a configuration of PEFT, under `REVISION`; empty for the default.

    Args:
        config: `adapter_config.json`, parsed, or what an `AdapterRecord` has of it.
    """
    named = config.get(REVISION)
    return {REVISION: named} if isinstance(named, str) and named not in ("", _DEFAULT) else {}


def revision_of(adapter: AdapterRecord) -> str:
    """The revision of the base model that an adapter names; empty for none, or the default.

    Args:
        adapter: The adapter.
    """
    return revision_in(adapter.config).get(REVISION, "")


def shared_revision(adapters: Sequence[AdapterRecord], base_model: str) -> dict[str, str]:
    """The revision that a merge names, under `REVISION`: the only one that its adapters name, or empty.

    Args:
        adapters: The sources.
        base_model: The base model of the merge. The revision is of that one, so an adapter that names
            another does not count.
    """
    named = {revision_of(a) for a in adapters if a.base_model == base_model} - {""}
    return {REVISION: named.pop()} if len(named) == 1 else {}


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
