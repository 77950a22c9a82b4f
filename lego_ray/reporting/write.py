"""The page of a merge, from its template."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lego_ray.amounts import size
from lego_ray.output.card.markdown import plain
from lego_ray.reporting.answer import answer
from lego_ray.reporting.clusters import NAMED, flow, occupancy
from lego_ray.reporting.course import recipe, stages
from lego_ray.reporting.drawing import for_a_phone
from lego_ray.reporting.facts import Facts
from lego_ray.reporting.inputs import inputs, merged_rank
from lego_ray.reporting.layers import errors, inertia, kept, norms, ratios
from lego_ray.reporting.numbers import count, duration, number, percent
from lego_ray.reporting.similarity import Arranged, arranged, similarity
from lego_ray.reporting.style import DARK, LIGHT

# What a page starts with, by which one written before is known from other files.
START = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta name="generator" content="lego-ray report">'
)


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
    text = (
        _environment()
        .get_template("report.html")
        .render(
            start=Markup(START),
            light=LIGHT,
            dark=DARK,
            facts=facts,
            manifest=facts.manifest,
            rank=merged_rank(facts),
            named=NAMED,
            narrow=narrow,
            **parts,
        )
    )
    return text.encode("utf-8", "replace")


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
        "stages": stages(facts),
        "recipe": recipe(facts),
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lego_ray.reporting", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
    )
    functions = (count, duration, number, percent, size)
    environment.globals |= {function.__name__: function for function in functions}
    return environment


def _shown(value: Any) -> str:
    """What a template shows of a value before it is escaped: a number for people, text on one line.

    Text is cut if it is very long; what cannot be seen is made visible. Markup stays as it is.
    """
    if isinstance(value, Markup):
        return value
    return plain(value) if isinstance(value, str) else number(value)
