"""Ids of merges and adapters by their first digits."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Fewer digits are taken for a name.
MIN_DIGITS = 6
# Digits that are printed for people.
SHOWN_DIGITS = 12
_ID = re.compile(f"[0-9a-f]{{{MIN_DIGITS},64}}")


def ids_that_begin(text: str, ids: Iterable[str]) -> list[str]:
    """The ids that begin with some digits, sorted; none if the text is not six digits or more.

    Args:
        text: The first digits of an id, or all; in lower or upper case.
        ids: Hex digests.
    """
    digits = text.lower()
    return sorted({i for i in ids if i.startswith(digits)}) if _ID.fullmatch(digits) else []


def listed(ids: Iterable[str], names: Iterable[str]) -> str:
    """Ids with their names, for an error that asks which one is meant.

    Args:
        ids: Hex digests.
        names: What each is called, in the order of the ids.
    """
    return ", ".join(f"{i[:SHOWN_DIGITS]} ({name})" for i, name in zip(ids, names, strict=True))
