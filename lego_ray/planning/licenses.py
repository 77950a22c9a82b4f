"""Licenses of a merge's sources, and what to check before the merged adapter is passed on. Pure.

No legal advice: whether merged weights are derived from their sources is an open question, and this
answers it with yes, which is the careful side. It knows what some licenses are about, not their texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Flag, auto
from types import MappingProxyType

from lego_ray.formats.record import AdapterRecord

UNKNOWN = "unknown"
# A warning names this many licenses; the catalog and the manifest have them all.
LISTED = 5


class Terms(Flag):
    """What a license asks of those who pass on what is derived from the work."""

    CREDIT = 0
    """Notices and credit at most."""
    NO_COMMERCE = auto()
    """No commercial use."""
    NO_CHANGES = auto()
    """Nothing derived may be passed on."""
    SAME_LICENSE = auto()
    """What is derived goes out under the same license."""
    OWN_RULES = auto()
    """Rules of its own on use, naming or who may use it, to be handed on."""


# Identifiers as the Hugging Face Hub and SPDX write them, as patterns; the first that fits counts.
KNOWN: Mapping[str, Terms] = MappingProxyType(
    {
        r"cc0-1\.0|pddl|unlicense|wtfpl|0bsd": Terms.CREDIT,
        r"cc-by-nc-nd(-\d\.\d)?": Terms.NO_COMMERCE | Terms.NO_CHANGES,
        r"cc-by-nc-sa(-\d\.\d)?": Terms.NO_COMMERCE | Terms.SAME_LICENSE,
        r"cc-by-nc(-\d\.\d)?": Terms.NO_COMMERCE,
        r"cc-by-nd(-\d\.\d)?": Terms.NO_CHANGES,
        r"cc-by-sa(-\d\.\d)?": Terms.SAME_LICENSE,
        r"cc-by(-\d\.\d)?": Terms.CREDIT,
        r"apache-2\.0|mit|isc|zlib|ncsa|postgresql|bsl-1\.0|afl-3\.0|ecl-2\.0": Terms.CREDIT,
        r"bsd(-[23]-clause(-clear)?)?|ms-pl|odc-by|cdla-permissive-[12]\.0": Terms.CREDIT,
        r"[al]?gpl(-\d(\.\d)?)?(-only|-or-later|\+)?|lgpl-lr": Terms.SAME_LICENSE,
        r"mpl-2\.0|epl-[12]\.0|eupl-1\.[12]|osl-3\.0|odbl|cdla-sharing-1\.0": Terms.SAME_LICENSE,
        r"apple-amlr|fair-noncommercial-research-license|intel-research": Terms.NO_COMMERCE
        | Terms.OWN_RULES,
        r"(.*-)?openrail(\+\+|-m|-m1)?|bigscience-bloom-rail-1\.0": Terms.OWN_RULES,
        r"llama-?[234](\.\d)?|gemma|deepfloyd-if-license": Terms.OWN_RULES,
    }
)


def terms_of(license: str) -> Terms | None:
    """What a license is about, or None if it is not one that lego-ray knows."""
    return next((t for known, t in KNOWN.items() if re.fullmatch(known, license)), None)


def licenses_of(adapters: Iterable[AdapterRecord]) -> tuple[str, ...]:
    """The licenses of some adapters, each once, sorted; `unknown` for those that name none."""
    return tuple(sorted(_holders(adapters)))


def license_conflicts(adapters: Iterable[AdapterRecord]) -> tuple[str, ...]:
    """What to check about licenses before an adapter merged from these is passed on.

    Where all have one license, its terms are plainly those to follow and nothing is said, unless it
    forbids derived works. Adapters of one's own often name no license; where none does, that is said
    only if one came from the Hub.

    Args:
        adapters: The sources of a merge.

    Returns:
        One sentence, without its full stop, for each license to look at.
    """
    holders = _holders(adapters)
    found = []
    for license, uris in sorted(holders.items()):
        others = [other for other in sorted(holders) if other not in (license, UNKNOWN)]
        who = uris[0] if len(uris) == 1 else f"{len(uris)} adapters, such as {uris[0]}"
        if license == UNKNOWN:
            if others or any(uri.startswith("hf://") for uri in uris):
                found.append(f"no license is named by {who}: ask before what holds it is passed on")
            continue
        found += [f"license {license} of {who} {point}" for point in _points(license, others)]
    return tuple(found)


def _points(license: str, others: Sequence[str]) -> Iterable[str]:
    """What is to be said of one license beside the others."""
    terms = terms_of(license)
    if terms is not None and Terms.NO_CHANGES in terms:
        yield "lets nothing derived be passed on, which a merged adapter may be: check"
    if not others:
        return
    if terms is None:
        yield f"is not one that lego-ray knows, beside {_listed(others)}: check its terms"
        return
    free = [o for o in others if Terms.NO_COMMERCE not in (terms_of(o) or Terms.CREDIT)]
    if Terms.NO_COMMERCE in terms and free:
        yield f"allows no commercial use, where {_listed(free)} may: check which bind the merged one"
    if Terms.SAME_LICENSE in terms:
        yield f"asks for itself on what is derived, beside {_listed(others)}: check they go together"
    if Terms.OWN_RULES in terms:
        yield f"has rules of its own to hand on, beside {_listed(others)}: check they go together"


def _listed(licenses: Sequence[str]) -> str:
    more = f" and {len(licenses) - LISTED} more" if len(licenses) > LISTED else ""
    return ", ".join(licenses[:LISTED]) + more


def _holders(adapters: Iterable[AdapterRecord]) -> dict[str, list[str]]:
    """URIs of the adapters under each license; one that names several is under each of them."""
    found: dict[str, list[str]] = {}
    for adapter in adapters:
        named = {part.strip().lower() for part in adapter.license.split(",")} - {""}
        for license in named or {UNKNOWN}:
            found.setdefault(license, []).append(adapter.uri)
    return found
