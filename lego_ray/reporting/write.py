"""The page of a merge, from its template."""

from __future__ import annotations

from typing import Any

from lego_ray.reporting.answer import answer
from lego_ray.reporting.clusters import NAMED, flow, occupancy
from lego_ray.reporting.course import recipe, stages
from lego_ray.reporting.drawing import for_a_phone
from lego_ray.reporting.facts import Facts
from lego_ray.reporting.inputs import inputs, merged_rank
from lego_ray.reporting.layers import errors, inertia, kept, norms, ratios
from lego_ray.reporting.page_file import START
from lego_ray.reporting.rendering import rendered
from lego_ray.reporting.search import search
from lego_ray.reporting.similarity import Arranged, arranged, similarity


def page(facts: Facts) -> bytes:
    """Writes the page: the same bytes for the same facts by the same software.

    It stands alone: no network, no script. Names of adapters, sites and models may hold anything, and
    mean nothing as markup.

    Args:
        facts: What is known of the merge.

    Returns:
        HTML, UTF-8.
    """
    found = arranged(facts)
    parts = _parts(facts, found)
    with for_a_phone() as narrow:
        _parts(facts, found)
    return rendered(
        "report.html",
        START,
        facts=facts,
        manifest=facts.manifest,
        rank=merged_rank(facts),
        named=NAMED,
        narrow=narrow,
        **parts,
    )


def _parts(facts: Facts, found: Arranged | None) -> dict[str, Any]:
    """What the sections show, with their figures."""
    alike = None if found is None else similarity(found)
    return {
        "answer": answer(facts, alike),
        "inputs": inputs(facts),
        "similarity": alike,
        "occupancy": occupancy(facts),
        "flow": flow(facts),
        "errors": errors(facts),
        "inertia": inertia(facts),
        "ratios": ratios(facts),
        "norms": norms(facts),
        "kept": kept(facts),
        "search": search(facts),
        "stages": stages(facts),
        "recipe": recipe(facts),
    }
