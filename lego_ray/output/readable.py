"""Holds a merged adapter's files against the readers of its layout, before any of them is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.readers.check import check_readers
from lego_ray.formats.readers.outgoing import outgoing_of
from lego_ray.output.manifest import weights_of

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan


def check_made(plan: Plan, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Passes files that the main reader of their layout loads whole and as they are meant.

    Args:
        plan: What they were made by.
        files: Bytes by key.

    Returns:
        Limits that the plan did not show.

    Raises:
        UnreadableOutput: If that reader could not.
    """
    where = f"merge {plan.recipe.name}"
    found = _limits(plan.format, where, files[plan.weights_name], files)
    return tuple(each for each in found if each not in plan.limits)


def with_warnings(plan: Plan, *found: Iterable[str]) -> Plan:
    """The plan with what was found of its result added to its warnings and limits.

    Args:
        plan: The plan.
        found: Sentences without their full stop.
    """
    limits = tuple(sentence for each in found for sentence in each)
    return replace(plan, warnings=(*plan.warnings, *limits), limits=(*plan.limits, *limits))


def check_published(
    manifest: Mapping[str, Any], files: Mapping[str, bytes], where: str
) -> tuple[str, ...]:
    """Passes the files of a merge that is about to be copied; returns all limits of it.

    Args:
        manifest: The merge's.
        files: Bytes by key.
        where: Where it is, for the error.

    Raises:
        UnreadableOutput: If the main reader of its layout could not load it as it is meant.
        MalformedAdapter: If its files cannot be parsed.
    """
    layout, weights = str(manifest.get("format", "peft")), weights_of(manifest)
    return _limits(layout, where, files[weights], files) if weights in files else ()


def _limits(layout: str, where: str, weights: bytes, files: Mapping[str, bytes]) -> tuple[str, ...]:
    config = files.get(CONFIG_NAME) if output_layout(layout, where).has_config else None
    return check_readers(outgoing_of(layout, where, weights, config))
