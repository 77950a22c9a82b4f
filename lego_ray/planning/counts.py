"""How many adapters were found under the sources, and what became of them: numbers that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

# What a sentence calls those that are left out, by their names here.
_LEFT_OUT = {
    "refused": "refused",
    "passed_over": "{noun} passed over",
    "excluded": "left out by exclude",
    "other_base": "of other base models",
    "not_chosen": "not chosen",
    "zero_weight": "of weight 0",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many adapters were found, by what became of them; each counts once.

    Attributes:
        usable: Those that are merged, or can be.
        refused: Those that cannot be read or merged.
        passed_over: Checkpoints of training runs whose last adapter counts above or below.
        excluded: Left out by a name or pattern, before they were read.
        other_base: Of other base models than the one that was asked for.
        not_chosen: Of a library, those that the recipe file's entry does not take.
        zero_weight: Those that have weight 0.
    """

    usable: int
    refused: int = 0
    passed_over: int = 0
    excluded: int = 0
    other_base: int = 0
    not_chosen: int = 0
    zero_weight: int = 0

    @property
    def found(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))

    def with_bad(self, n: int) -> Counts:
        """The counts after some of the usable ones turned out bad and were refused.

        Args:
            n: How many.
        """
        return replace(self, usable=self.usable - n, refused=self.refused + n)

    def as_json(self) -> dict[str, int]:
        """The numbers as records have them, the sum first."""
        return {"found": self.found, **asdict(self)}


def said_of(counts: Mapping[str, int], taken: str = "usable") -> str:
    """The numbers as a sentence has them: `15 found: 10 usable, 3 refused, 2 left out by exclude`.

    Args:
        counts: As records have them; see `Counts.as_json`.
        taken: What the adapters that are not left out are called.
    """
    parts = [f"{counts['usable']:,} {taken}", f"{counts['refused']:,} refused"]
    for name, said in _LEFT_OUT.items():
        if name != "refused" and (n := counts[name]):
            parts.append(f"{n:,} {said.format(noun='checkpoint' if n == 1 else 'checkpoints')}")
    return f"{counts['found']:,} found: {', '.join(parts)}"
