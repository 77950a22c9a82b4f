"""The front matter of a model card: what the Hugging Face Hub and libraries read of it.

The Hub turns down a card with a value it does not know, so what it would not take is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_MODEL_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_NOT_IN_IDS = ("--", "..")

# Identifiers of licenses that the Hub takes; another goes as `other`, with its name beside it.
HUB_LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
    bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
    cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc
    lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
    """.split()  # noqa: SIM905 - as a list, a screen of it
)


def front_matter(
    base_model: str, licenses: Sequence[str], tags: Sequence[str], library: str = "peft"
) -> str:
    """Writes the front matter of an adapter's card.

    Args:
        base_model: Its name; left out where it is none that a model on the Hub may have.
        licenses: Those of the adapter; none where they are not to be named.
        tags: Tags.
        library: The library that loads it.

    Returns:
        YAML between two lines of dashes, without a line break at the end.
    """
    fields: dict[str, object] = {}
    if is_model_id(base_model):
        fields |= {"base_model": base_model, "base_model_relation": "adapter"}
    fields |= {"library_name": library, "tags": list(tags), **license_fields(licenses)}
    # JSON is YAML, and quotes what YAML would take for something else.
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def is_model_id(name: str) -> bool:
    """Whether a name is of the form that models on the Hub have."""
    return bool(_MODEL_ID.fullmatch(name)) and not any(part in name for part in _NOT_IN_IDS)


def license_fields(licenses: Sequence[str]) -> dict[str, object]:
    """The fields that name some licenses.

    Args:
        licenses: Identifiers or names of them.

    Returns:
        Nothing for none; `license`, a list where there are several; and `license_name` where one is
        not of those that the Hub knows.
    """
    known = [name.strip().lower() for name in licenses]
    ids = list(dict.fromkeys(name if name in HUB_LICENSES else "other" for name in known))
    if not ids:
        return {}
    others = [re.sub(r"[^a-z0-9.+-]+", "-", name).strip("-") for name in known]
    named = "-and-".join(name for name in others if name and name not in HUB_LICENSES)
    found: dict[str, object] = {"license": ids[0] if len(ids) == 1 else ids}
    return {**found, "license_name": named[:128]} if named else found
