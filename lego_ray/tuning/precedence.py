"""What a recipe file and the flags ask of a search, as one: a flag comes before the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lego_ray.methods.names import MethodOptions
from lego_ray.options import keywords_of
from lego_ray.tuning.options import WEIGHTED
from lego_ray.tuning.section import Section

_METHOD = ("preset", "method", *keywords_of(MethodOptions))
# Options of a merge that a key of the space takes the place of.
_SEARCHED: Mapping[str, tuple[str, ...]] = {
    "preset": _METHOD,
    "scale": ("output_scale",),
    "spectrum": ("spectrum",),
    "weights": ("weights",),
    "rank": ("rank", "rank_error", "rank_budget"),
}


def asked_of(
    merge: Mapping[str, Any], section: Section, flags: Mapping[str, Any]
) -> dict[str, Any]:
    """The keywords of `tune` that a recipe file and flags come to.

    What the file's section searches takes the place of what its merge says, since the merge is there
    for `build` too. A flag takes the place of both: `--preset` and `--method` of the file's method with
    its options, `--score` and `--score-texts` of the file's scorer, `--objective` of its task weights.

    Args:
        merge: What the file says of its merge, as keywords of `merge`.
        section: What it says of the search.
        flags: The keywords that the call was given; none is None.
    """
    by_flag = {text.partition("=")[0] for text in flags.get("space") or ()}
    space = {
        key: text
        for key, text in section.space.items()
        if key not in by_flag and not any(name in flags for name in _SEARCHED[key])
    }
    found = {**merge, **section.options}
    for key in {*section.space, *by_flag}:
        _drop(found, _SEARCHED.get(key, ()))
    if "preset" in flags:
        _drop(found, (*_METHOD, "output_scale", "spectrum"))
    elif "method" in flags:
        _drop(found, _METHOD if flags["method"] != found.get("method") else ("preset",))
    if "score" in flags or "score_texts" in flags:
        _drop(found, ("score", "score_texts"))
    if flags.get("objective", WEIGHTED) != WEIGHTED:
        _drop(found, ("task_weights",))
    searched = [f"{key}={text}" for key, text in space.items()]
    return {**found, **flags, "space": [*searched, *(flags.get("space") or ())]}


def _drop(found: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        found.pop(name, None)
