"""One module under two names: a row of an architecture's table, and what a path is by it.

The authors of a model name its modules in one way and diffusers in another, and some modules of the
authors' are several of diffusers' in one: a fused projection, whose B has their rows one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# How the rows of a fused B are shared out: in equal parts; d_in for each and the rest for the last; or
# d_in for the first and the rest in equal parts (fewer heads for keys and values).
Cut = Literal["equal", "rest", "heads"]
Side = Literal["original", "diffusers"]


@dataclass(frozen=True, slots=True)
class Row:
    """One module of the authors' and what it is in diffusers.

    Attributes:
        original: Its path, dotted; `#` stands for the number of a block, the same on both sides.
        diffusers: Its path there, or those of its parts in the order of B's rows.
        cut: How these share the rows.
        is_swapped: Whether the halves of B's rows (shift and scale) change places.
        widths: Rows of B for each column of A, if the row is right for modules of that form alone; else
            0.
        is_oblong: Whether the row is right only for modules with other widths of input and output.
        d_in: Columns of A, if the row is right for modules of that width alone; else 0.
    """

    original: str
    diffusers: tuple[str, ...]
    cut: Cut = "equal"
    is_swapped: bool = False
    widths: int = 0
    is_oblong: bool = False
    d_in: int = 0

    @property
    def is_fused(self) -> bool:
        """Whether it is several modules in diffusers."""
        return len(self.diffusers) > 1

    @property
    def is_same(self) -> bool:
        """Whether both sides have one name."""
        return self.diffusers == (self.original,)

    def rows_of(self, part: int, d_in: int, d_out: int) -> tuple[int, int] | None:
        """Which rows of B are a part's; None if B cannot be shared out so.

        Args:
            part: Number of the part.
            d_in: Length of a row of A.
            d_out: Rows of B.
        """
        parts = len(self.diffusers)
        if self.cut == "equal":
            sizes = [d_out // parts] * parts if d_out % parts == 0 else []
        elif self.cut == "rest":
            sizes = [*[d_in] * (parts - 1), d_out - d_in * (parts - 1)]
        else:
            rest = d_out - d_in
            sizes = [d_in, *[rest // (parts - 1)] * (parts - 1)] if rest % (parts - 1) == 0 else []
        if not sizes or min(sizes) <= 0:
            return None
        return sum(sizes[:part]), sum(sizes[: part + 1])

    def height_of(self, d_in: int, sizes: Mapping[int, int]) -> int | None:
        """Rows of the fused B, by those of some of its parts; None if they do not show it.

        Args:
            d_in: Length of a row of A.
            sizes: Rows of each part that is known, by its number.
        """
        parts = len(self.diffusers)
        if self.widths:
            return self.widths * d_in
        if self.cut == "equal":
            return parts * next(iter(sizes.values())) if sizes else None
        last = sizes.get(parts - 1)
        if self.cut == "rest":
            return None if last is None else (parts - 1) * d_in + last
        others = [size for part, size in sizes.items() if part]
        return d_in + (parts - 1) * others[0] if others else None


@dataclass(frozen=True, slots=True)
class Reading:
    """A path as a row of a table has it.

    Attributes:
        row: The row.
        side: Whose name it is; `original` where both sides have the same.
        part: Which of diffusers' names it is.
        numbers: What stands for each `#`.
    """

    row: Row
    side: Side
    part: int
    numbers: tuple[str, ...]

    def path(self, side: Side, part: int = 0) -> str:
        """The dotted path on a side.

        Args:
            side: Whose name.
            part: Which of diffusers' names.
        """
        template = self._template(side, part)
        numbers = iter(self.numbers)
        return ".".join(next(numbers) if word == "#" else word for word in template.split("."))

    def fits(self, d_in: int, d_out: int) -> bool:
        """Whether a module has a shape that its row can have.

        Args:
            d_in: Length of a row of A.
            d_out: Rows of B.
        """
        row = self.row
        parts = len(row.diffusers) if self.side == "original" else 1
        if (row.is_oblong and d_out == parts * d_in) or (row.d_in and d_in != row.d_in):
            return False
        if self.side == "diffusers":
            return not (row.widths and not row.is_fused and d_out != row.widths * d_in)
        if row.widths and d_out != row.widths * d_in:
            return False
        return not row.is_fused or row.rows_of(0, d_in, d_out) is not None

    @property
    def template(self) -> str:
        """The path as the table has it."""
        return self._template(self.side, self.part)

    def _template(self, side: Side, part: int) -> str:
        return self.row.original if side == "original" else self.row.diffusers[part]

    @property
    def is_telling(self) -> bool:
        """Whether only one of the two sides has this name."""
        return not self.row.is_same
