"""The module trees that one vision-language model has had in releases of transformers. Pure.

Since 4.52 the language model is `model.language_model`, beside `model.visual` or `model.vision_tower`;
before, it was `language_model.model` beside `vision_tower` (LLaVA and its kin), or `model` beside
`visual` (Qwen2-VL and its kin). The rules are those of transformers' own `conversion_mapping`, from the
old tree to the new one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# A name in the new tree.
_NEW = re.compile(r"model\.language_model\.(?!model\.)")
# Beginnings of names in an old tree, and what they are in the new one. The first that matches counts.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?:model\.)?language_model\.model\."), "model.language_model."),
    (re.compile(r"language_model\.lm_head(?=\.|$)"), "lm_head"),
    (re.compile(r"model\.(?=(?:layers|embed_tokens)(?:\.|$))"), "model.language_model."),
    (
        re.compile(r"(?=(?:visual|vision_tower|vision_model|multi_modal_projector|audio_tower)\.)"),
        "model.",
    ),
)


def in_new_tree(site: str) -> str:
    """The name that a module of an old tree has in the new one; any other name as it is.

    `model.layers` is the old tree of some models and the only one of others, so the result serves to
    compare names, unless other names show which it is: see `tree_renames`.
    """
    for beginning, new in _RULES:
        if found := beginning.match(site):
            return new + site[found.end() :]
    return site


def tree_renames(adapters: Collection[Iterable[str]]) -> dict[str, str]:
    """New names of sites in an old tree, where the adapters of a merge have both trees.

    Args:
        adapters: The sites of each adapter, in any order.

    Returns:
        By old name; empty where there is one tree.
    """
    several = [tuple(sites) for sites in adapters]
    new = [any(map(_NEW.match, sites)) for sites in several]
    if not any(new) or all(new):
        return {}
    # What stands beside a module of the new tree is not of the old one.
    beside = {
        rule
        for sites, is_new in zip(several, new, strict=True)
        if is_new
        for rule, (beginning, _) in enumerate(_RULES)
        if any(map(beginning.match, sites))
    }
    out: dict[str, str] = {}
    for sites in several:
        for site in sites:
            rule = next((n for n, (start, _) in enumerate(_RULES) if start.match(site)), None)
            if rule is not None and rule not in beside:
                out[site] = in_new_tree(site)
    return out if all(_are_apart(sites, out) for sites in several) else {}


def _are_apart(sites: Collection[str], renames: dict[str, str]) -> bool:
    return len({renames.get(site, site) for site in sites}) == len(sites)
