"""Templates to pages: whatever a value holds, it means nothing as markup."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lego_ray.amounts import size
from lego_ray.output.card.markdown import plain
from lego_ray.reporting.numbers import count, duration, number, percent
from lego_ray.reporting.style import DARK, LIGHT


def rendered(template: str, start: str, **values: Any) -> bytes:
    """A page, made from its template: the same bytes for the same values.

    Args:
        template: Its name.
        start: What the page starts with.
        **values: What the template shows.

    Returns:
        HTML, UTF-8.
    """
    made = _environment().get_template(template)
    text = made.render(start=Markup(start), light=LIGHT, dark=DARK, **values)
    return text.encode("utf-8", "replace")


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
