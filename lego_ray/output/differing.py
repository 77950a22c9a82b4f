"""In what a plan differs from the merge that is at its output, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lego_ray.planning.plan import Plan

# Differences that one sentence names.
SHOWN = 5
# What the planner chose, or what is the same thing by another name.
_PASSED_OVER = frozenset({"parent", "ranks"})


def what_differs(manifest: Mapping[str, Any], plan: Plan) -> str:
    """Says what a plan asks for otherwise: `rank 8 -> 16; 2 adapters more`.

    Args:
        manifest: Of the merge that is there.
        plan: The plan.

    Returns:
        At most `SHOWN` differences, and how many more there are.
    """
    found = [*_of_recipes(manifest["recipe"], plan.recipe.as_json()), *_of_adapters(manifest, plan)]
    for name in ("base_model", "dtype"):
        before, now = manifest.get(name), getattr(plan, name)
        if before != now and not any(said.startswith(f"{name} ") for said in found):
            found.append(f"{name} {_said(before)} -> {_said(now)}")
    if not found:
        return "the options or the adapters differ"
    more = len(found) - SHOWN
    return "; ".join([*found[:SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _of_recipes(
    before: Mapping[str, Any], now: Mapping[str, Any], within: str = ""
) -> Iterator[str]:
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if old == new or name in _PASSED_OVER:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _of_recipes(old, new, "" if name == "options" else f"{name}: ")
        else:
            yield f"{within}{name} {_said(old)} -> {_said(new)}"


def _of_adapters(manifest: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    there = {source["adapter_id"]: str(source["uri"]) for source in manifest["sources"]}
    asked = {adapter.adapter_id: adapter.uri for adapter in plan.adapters}
    for word, some, others in (("more", asked, there), ("fewer", there, asked)):
        names = [_name(uri) for key, uri in some.items() if key not in others]
        if names:
            listed = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            yield f"{len(names)} adapter{'s' * (len(names) > 1)} {word} ({listed})"


def _name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _said(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
