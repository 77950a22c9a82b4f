"""Tags of an image LoRA, from the file that a hub's tool wrote beside it and from its own header.

Everything becomes tags, and a license where one is named. What is missing, or is not of the form that
the tools write, is left out; nothing here is ever an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from lego_ray.formats.model_card import MAX_TAGS, ModelCard

# Ends of the names of files beside NAME.safetensors, the one that says most first: Civitai Helper, LoRA
# Manager, Stability Matrix, AUTOMATIC1111's web UI.
SIDECARS = (".civitai.info", ".metadata.json", ".cm-info.json", ".json")
# They hold prompts of dozens of pictures, and no more.
MAX_SIDECAR_BYTES = 4 << 20

TRIGGER_WORDS = "trigger_words"
# A tag is something to choose by, and not a text.
_LONGEST = 500


def tags_in_header(metadata: Mapping[str, str]) -> ModelCard:
    """What the metadata of a safetensors header says, by the fields of `modelspec` and of kohya.

    Args:
        metadata: The header's.
    """
    tags = _tags(
        title=metadata.get("modelspec.title") or metadata.get("ss_output_name"),
        architecture=(metadata.get("modelspec.architecture") or "").removesuffix("/lora"),
        base=metadata.get("ss_base_model_version"),
        **{TRIGGER_WORDS: metadata.get("modelspec.trigger_phrase")},
    )
    return ModelCard(
        license=(metadata.get("modelspec.license") or "").strip(),
        tags=_with_bare(tags, (metadata.get("modelspec.tags") or "").split(",")),
    )


def parse_sidecar(data: bytes) -> ModelCard:
    """What a file beside a LoRA says, whichever of the tools of `SIDECARS` wrote it.

    Args:
        data: The file's bytes, of any kind.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return ModelCard()
    if not isinstance(content, dict):
        return ModelCard()
    civitai = _dict(content.get("civitai")) or content
    model = _dict(civitai.get("model"))
    words = (
        civitai.get("trainedWords"),
        content.get("TrainedWords"),
        content.get("activation text"),
    )
    bare = next((t for t in map(_list, (content.get("tags"), content.get("Tags"))) if t), [])
    tags = _tags(
        title=_first(model.get("name"), content.get("model_name"), content.get("ModelName")),
        base=_first(
            content.get("base_model"),
            civitai.get("baseModel"),
            content.get("BaseModel"),
            content.get("sd version"),
        ),
        **{TRIGGER_WORDS: next((w for w in map(_words, words) if w), "")},
    )
    return ModelCard(tags=_with_bare(tags, bare or _list(model.get("tags"))))


def _tags(**found: object) -> dict[str, str]:
    shortened = {name: str(value).strip()[:_LONGEST] for name, value in found.items() if value}
    return {name: value for name, value in shortened.items() if value}


def _with_bare(tags: Mapping[str, str], bare: Iterable[str]) -> dict[str, str]:
    """Tags by name, with others that stand for themselves, as in a model card."""
    plain = {tag.strip()[:_LONGEST]: "true" for tag in bare if tag.strip()}
    return dict([*tags.items(), *((k, v) for k, v in plain.items() if k not in tags)][:MAX_TAGS])


def _words(value: object) -> str:
    words = _list(value) or ([value] if isinstance(value, str) else [])
    return ", ".join(dict.fromkeys(word.strip(" ,") for word in words if word.strip(" ,")))


def _first(*values: object) -> str:
    return next((value for value in values if isinstance(value, str) and value.strip()), "")


def _list(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _dict(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
