"""License, tags and base model of an adapter, from the front matter of its README.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# No honest front matter is longer; a longer one is taken for none.
MAX_FRONT_MATTER = 64 << 10
MAX_TAGS = 256


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model card says of an adapter.

    Attributes:
        license: Such as `apache-2.0`; several with commas between them; or empty.
        tags: Key/value pairs. A tag written `key:value` or `key=value` gives that pair, a mapping
            gives its pairs, and a bare tag gives itself and `true`.
        base_model: Such as `org/model`, or empty; also where several are named.
    """

    license: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    base_model: str = ""


def parse_card(data: bytes) -> ModelCard:
    """Reads a model card; whatever is missing or unreadable comes out empty. Never raises.

    Args:
        data: The file's bytes, of any kind.
    """
    fields = _front_matter(data)
    base_models = fields.get("base_model")
    if isinstance(base_models, list) and len(base_models) == 1:
        base_models = base_models[0]
    return ModelCard(
        license=_license(fields.get("license"), fields.get("license_name")),
        tags=_tags(fields.get("tags")),
        base_model=base_models.strip() if isinstance(base_models, str) else "",
    )


def _license(value: object, other: object) -> str:
    named = value if isinstance(value, list) else [value]
    found = [name.strip() for name in named[:MAX_TAGS] if isinstance(name, str) and name.strip()]
    # The Hub has `other` stand for a license that it does not know, with its name beside it.
    if isinstance(other, str) and other.strip():
        found = [other.strip() if name == "other" else name for name in found]
    return ", ".join(dict.fromkeys(found))


def _front_matter(data: bytes) -> Mapping[object, object]:
    from lego_ray.formats.strict_yaml import YamlFault, load_words

    text = data[:MAX_FRONT_MATTER].decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    body, closing, _ = text[3:].partition("\n---")
    if not closing:
        return {}
    try:
        # Every scalar stays a string: `license: no` is a text, and nothing is ever constructed.
        loaded = load_words(body)
    except YamlFault:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _tags(value: object) -> dict[str, str]:
    out: dict[str, str] = {}
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str) and isinstance(item, str):
                out[key.strip()] = item.strip()
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str) and item.strip():
                key, text = _split(item.strip())
                out[key] = text
    return dict(list(out.items())[:MAX_TAGS])


def _split(tag: str) -> tuple[str, str]:
    for mark in ("=", ":"):
        key, found, value = tag.partition(mark)
        if found and key.strip() and value.strip():
            return key.strip(), value.strip()
    return tag, "true"
