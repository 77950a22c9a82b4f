"""What a user may say of the groups a zoo falls into, before any adapter is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lego_ray.errors import InvalidOption
from lego_ray.planning.options import AUTO

FLAG = "--groups"


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """How adapters are put into groups.

    Attributes:
        count: How many groups; None to choose.
        alone_below: An adapter whose mean cosine to the others of its group is lower leaves it; None
            for no such bound.
    """

    count: int | None = None
    alone_below: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Both as a recipe file has them."""
        count = AUTO if self.count is None else self.count
        return {"count": count, "alone_below": self.alone_below}


def group_count(given: object) -> int | None:
    """Reads a number of groups: `auto`, as None, or a whole number of at least 1.

    Raises:
        InvalidOption: If it is neither.
    """
    if given == AUTO:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise InvalidOption(FLAG, f"{given!r} is not auto or a whole number of at least 1")
    return given
