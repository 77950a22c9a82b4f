"""LoRAs for one half of a model that has two: Wan 2.2's, one transformer for high noise, one for low.

Both halves have the same modules, so a LoRA's keys do not say which it is for. Only its name does:
`concept_HIGH` and `concept_LOW`, `x_high_noise` and `x_low_noise`, `x-HN` and `x-LN`, `x-H-e8` and
`x-L-e8`, a folder `high` beside a folder `low`, or folders called as diffusers calls the two:
`transformer` and `transformer_2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from lego_ray.formats.record import AdapterRecord, sharing_sites

# Modules of Wan's transformer, dotted or flattened, in its own names or diffusers'.
_WAN = re.compile(
    r"(^|[._])blocks[._]\d+[._]((self|cross)_attn[._](q|k|v|o)|attn[12][._]to_(q|k|v|out)|ffn[._])"
)
_NOISE = re.compile(r"(high|low)[-_ .]?noise|noise[-_ .]?(high|low)", re.IGNORECASE)
_WORD = re.compile(
    r"(?<![A-Za-z])(?i:(high|low)|(h|l)n)(?![A-Za-z])|(?<=[a-z0-9])(High|Low|HIGH|LOW|HN|LN)(?![a-z])"
)
_FOLDER = re.compile(r"(high|low)([-_ ]?noise)?([-_ ]?model)?|(h|l)n", re.IGNORECASE)
_COMPONENT = re.compile(r"transformer(_2)?", re.IGNORECASE)
_LETTER = re.compile(r"(?<![A-Za-z0-9])([HL])(?![A-Za-z0-9])")
_FIRST, _SECOND = "transformer.", "transformer_2."
# Names that files have in a folder named after the adapter.
_GENERIC = re.compile(r"pytorch_lora_weights|adapter_model|lora|model|diffusion_pytorch_model")


def noise_warnings(adapters: Sequence[AdapterRecord]) -> Iterator[str]:
    """What to say where adapters of both halves, or of one half and of none, are merged into one.

    Args:
        adapters: Those that are merged.
    """
    if one_of_two := _into_the_first(adapters):
        yield one_of_two
    sides: dict[str, list[str]] = {"high": [], "low": []}
    stems: dict[str, dict[str, str]] = {}
    unproven: dict[str, dict[str, str]] = {}
    rest = 0
    of_wan = {
        id(first.sites): any(_WAN.search(site.site) for site in first.sites)
        for first, *_ in sharing_sites(adapters)
    }
    for adapter in adapters:
        side, stem, needs_pair = _side_of(adapter, is_wan=of_wan[id(adapter.sites)])
        if not side:
            rest += 1
        elif needs_pair:
            unproven.setdefault(stem, {})[side] = adapter.uri
        else:
            sides[side].append(adapter.uri)
            stems.setdefault(stem, {})[side] = adapter.uri
    for stem, found in unproven.items():
        if len(found) == 2:  # such a name says so only where the other half is there too
            stems[stem] = found
            sides["high"].append(found["high"])
            sides["low"].append(found["low"])
        else:
            rest += len(found)
    if sides["high"] and sides["low"]:
        pair = next((found for found in stems.values() if len(found) == 2), None)
        high, low = (pair["high"], pair["low"]) if pair else (sides["high"][0], sides["low"][0])
        yield (
            f"{high} is named as a LoRA for high noise and {low} as one for low noise, "
            f"{'two halves of one LoRA, ' if pair else ''}for two transformers "
            "that have the same modules (Wan 2.2): a merge of both fits neither. Merge "
            f"each half apart, with --exclude for the other ({len(sides['high'])} high, "
            f"{len(sides['low'])} low)"
        )
    elif rest and (sides["high"] or sides["low"]):
        side = "high" if sides["high"] else "low"
        yield (
            f"{_some(sides[side])} by name for {side} noise alone, one of two transformers that have "
            f"the same modules (Wan 2.2), and {rest} of the adapters do not say which they are for"
        )


def _into_the_first(adapters: Sequence[AdapterRecord]) -> str:
    """What to say of adapters that do not name their transformer, beside some that name two."""
    found: list[str] = []
    has_second = False
    for alike in sharing_sites(adapters):
        names = [site.site for site in alike[0].sites]
        if any(name.startswith(_SECOND) for name in names):
            has_second = True
        elif any(name.startswith(_FIRST) for name in names):
            # Only names of diffusers' own layout say which one they are of.
            found += [each.uri for each in alike if each.format != "diffusers"]
    if not (has_second and found):
        return ""
    return (
        f"{_some(found)} of a transformer that the file does not name, and merged into the first one "
        "(transformer, of Wan 2.2 that for high noise), while other adapters have a second one, "
        "transformer_2. If it is for the second one, leave it out with --exclude, or let its keys begin "
        "with transformer_2. and have diffusers' names"
    )


def _side_of(adapter: AdapterRecord, *, is_wan: bool) -> tuple[str, str, bool]:
    """`high`, `low` or nothing; its path without that word; and whether only a pair is proof."""
    parts = adapter.uri.removesuffix(".safetensors").removesuffix(".bin").split("/")
    while len(parts) > 1 and _GENERIC.fullmatch(parts[-1]):
        parts.pop()
    folder, name = "/".join(parts[:-1]), parts[-1]
    if found := _NOISE.search(name):
        side = (found[1] or found[2]).lower()
        return side, f"{folder}/{_without(name, found)}", not is_wan
    if not is_wan:
        return "", "", False
    if found := _WORD.search(name):
        word = next(group for group in found.groups() if group)
        side = "high" if word[0] in "hH" else "low"
        return side, f"{folder}/{_without(name, found)}", False
    if found := _LETTER.search(name):
        side = "high" if found[1] == "H" else "low"
        return side, f"{folder}/{_without(name, found)}", True
    if found := _COMPONENT.fullmatch(name):
        return _half_of(adapter, found), f"{folder}/*".casefold(), True
    above, _, last = folder.rpartition("/")
    if found := _COMPONENT.fullmatch(last):
        return _half_of(adapter, found), f"{above}/*/{name}".casefold(), True
    if _FOLDER.fullmatch(last):
        return ("high" if last[0] in "hH" else "low"), f"{above}/*/{name}".casefold(), False
    return "", "", False


def _half_of(adapter: AdapterRecord, component: re.Match[str]) -> str:
    """The half that a folder's name means; nothing if the keys have said it, and it is kept apart."""
    if any(site.site.startswith(_SECOND) for site in adapter.sites):
        return ""
    return "low" if component[1] else "high"


def _without(name: str, found: re.Match[str]) -> str:
    return f"{name[: found.start()]}*{name[found.end() :]}".casefold()


def _some(uris: Iterable[str]) -> str:
    first, *more = uris
    return f"{first} and {len(more)} more are" if more else f"{first} is"
