"""Parts of a page as HTML. Whatever comes from adapters is text, never markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from lego_ray.output.card.markdown import plain

Cell = str | int | float | None


def text(value: str) -> str:
    """Text as it is, on one line, cut if it is very long; what cannot be seen is made visible."""
    return escape(plain(value))


def number(value: float | None) -> str:
    """A number for people: whole ones in full, others to three digits; a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage: to a tenth below one per cent and near a hundred."""
    whole = share in (0, 1) or 0.01 <= share <= 0.99
    return f"{100 * share:.0f} %" if whole else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """A time in the units people say it in; a dash for none that can be."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def count(n: int, noun: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def paragraph(*sentences: str) -> str:
    """A paragraph of text."""
    return f"<p>{text(' '.join(sentences))}</p>"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table that scrolls by itself, with keys too; its first column heads the rows.

    Args:
        caption: What it has.
        columns: Heads.
        rows: Text, and numbers, which are formatted.
    """
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[Cell]) -> Iterable[str]:
    for place, cell in enumerate(row):
        shown = text(cell) if isinstance(cell, str) else number(cell)
        kind = "" if isinstance(cell, str) else ' class="n"'
        yield f'<th scope="row">{shown}</th>' if place == 0 else f"<td{kind}>{shown}</td>"


def folded(summary: str, content: str) -> str:
    """Content that is opened by a click or a key."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def figure(name: str, drawing: str, caption: str, behind: str) -> str:
    """A figure, what is seen in it in words, and the table behind it.

    Args:
        name: Of the figure, for its identifiers.
        drawing: SVG.
        caption: What is seen.
        behind: The table.
    """
    return (
        f'<figure id="{name}"><div class="plot" role="img" aria-labelledby="{name}-caption">'
        f'{drawing}</div><figcaption id="{name}-caption">{text(caption)}</figcaption></figure>'
        f"{folded('The numbers behind this figure', behind)}"
    )


def section(name: str, title: str, *content: str) -> str:
    """A section of the page."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{text(title)}</h2>{"".join(content)}</section>'
    )


def missing(sentence: str) -> str:
    """What a section says that has nothing to show."""
    return f'<p class="missing">{text(sentence)}</p>'
