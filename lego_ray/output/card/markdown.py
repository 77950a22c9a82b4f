"""Others' words in Markdown: names of adapters and sites, reasons. They may hold anything."""

from __future__ import annotations

import string
import unicodedata

# Longer ones are cut: no honest name is, and a card must stay a page.
LONGEST = 400
# What ends a code span or a table's cell, or could make either end somewhere else.
_ENDING = frozenset("`|\\")
# Controls, formats such as those that turn the reading direction, surrogates, private, unassigned.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def code(text: str) -> str:
    """Text as it is, in the style of code, on one line: no markup in it means anything.

    Safe in a paragraph, a list item, a heading and a cell of a table.

    Args:
        text: Anything.

    Returns:
        Markdown; a dash for nothing.
    """
    line = plain(text)
    if not line:
        return "-"
    if not _ENDING & set(line):
        return f"`{line}`"
    marks = set(string.punctuation)
    return "<code>" + "".join(f"&#{ord(c)};" if c in marks else c for c in line) + "</code>"


def plain(text: str) -> str:
    """Text on one line, cut short, what cannot be seen made visible; may hold markup."""
    line = " ".join(text.split())
    seen = "".join("\ufffd" if unicodedata.category(c) in _UNSEEN else c for c in line)
    return seen if len(seen) <= LONGEST else seen[: LONGEST - 1] + "\u2026"


def link(text: str, url: str) -> str:
    """A link, whose address must be one that cannot hold a parenthesis or a space."""
    return f"[{code(text)}]({url})"
