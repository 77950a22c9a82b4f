"""Ids of merges and adapters by their first digits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lego_ray.errors import InvalidOption

# Fewer digits are taken for a name.
MIN_DIGITS = 6
# Digits that are printed for people.
SHOWN_DIGITS = 12
# Ids that an error lists.
MOST_LISTED = 5
_ID = re.compile(f"[0-9a-f]{{{MIN_DIGITS},64}}")


def ids_that_begin(text: str, ids: Iterable[str]) -> list[str]:
    """The ids that begin with some digits, sorted; none if the text is not six digits or more.

    Args:
        text: The first digits of an id, or all; in lower or upper case.
        ids: Hex digests.
    """
    digits = text.lower()
    return sorted({i for i in ids if i.startswith(digits)}) if _ID.fullmatch(digits) else []


def one_id(digits: str, names: Mapping[str, str], where: str) -> str | None:
    """The id that begins with some digits; None if there is none, or the text is not six digits or more.

    Args:
        digits: The first digits of an id, or all.
        names: What each one is called, by its id.
        where: The option that they were given to, for the error.

    Raises:
        InvalidOption: If several ids begin so.
    """
    found = ids_that_begin(digits, names)
    if len(found) > 1:
        shown = listed(found[:MOST_LISTED], [names[each] for each in found[:MOST_LISTED]])
        more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
        raise InvalidOption(
            f"{where} {digits}",
            f"{len(found)} adapters have an id that begins so: {shown}{more}",
            "Give more digits of the id.",
        )
    return found[0] if found else None


def listed(ids: Iterable[str], names: Iterable[str]) -> str:
    """Ids with their names, for an error that asks which one is meant.

    Args:
        ids: Hex digests.
        names: What each is called, in the order of the ids.
    """
    return ", ".join(f"{i[:SHOWN_DIGITS]} ({name})" for i, name in zip(ids, names, strict=True))
