"""One model under two sets of names: what a row of an architecture's table is.

The authors of a model name its modules in one way and diffusers in another, and some modules of the
authors' are several of diffusers' in one: a fused projection, whose B has their rows one after another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lego_ray.formats.module_names import flattened, repaired

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
    """

    original: str
    diffusers: tuple[str, ...]
    cut: Cut = "equal"
    is_swapped: bool = False
    widths: int = 0
    is_oblong: bool = False

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


@dataclass(frozen=True)
class Architecture:
    """A model's two sets of names.

    Attributes:
        name: What people call it.
        rows: The modules that adapters have.
        component: What diffusers calls the part of the pipeline that they are in.
        kohya: Whose names kohya's trainers write, with underscores for dots.
        bases: Regular expression of names of base models, in lower case.
        blocks: How many blocks of a kind the largest of its models has, by the name of the kind; a
            number beyond that is of another model.
        norms: Modules that no LoRA is on, and that files may have differences of. Several of the
            authors' names may be one in diffusers; the other way about the name is then not known.
    """

    name: str
    rows: tuple[Row, ...]
    component: str = "transformer"
    kohya: Side = "original"
    bases: str = ""
    blocks: Mapping[str, int] = field(default_factory=dict)
    norms: tuple[Row, ...] = ()
    _cache: dict[str, Reading | None] = field(default_factory=dict, compare=False, repr=False)

    def read(self, path: str) -> Reading | None:
        """The row of a path, dotted or with its dots as underscores; None if it is of no row.

        Args:
            path: Of a module of the denoiser.
        """
        if path not in self._cache:
            self._cache[path] = self._read(path)
        return self._cache[path]

    def read_any(self, path: str) -> Reading | None:
        """The row of a path, also that of a norm; None if it is of no row.

        Args:
            path: Of a module of the denoiser.
        """
        return self.read(path) or self._find(path, self._norms)

    def others(self, reading: Reading) -> Iterator[Reading]:
        """The readings of a norm, which has several names of the authors' if there are more than one.

        Args:
            reading: What its name is in the table.
        """
        yield reading
        for row in self.norms:
            if row.diffusers == reading.row.diffusers and row != reading.row:
                yield Reading(row, reading.side, reading.part, reading.numbers)

    def is_named(self, base_model: str) -> bool:
        """Whether a base model's name says that it is this model.

        Args:
            base_model: As adapters have it; may be empty.
        """
        return bool(self.bases) and re.search(self.bases, base_model.lower()) is not None

    @cached_property
    def is_split(self) -> bool:
        """Whether some of its modules are several in diffusers."""
        return any(row.is_fused for row in self.rows)

    @cached_property
    def _index(self) -> _Index:
        return _index_of(self.rows)

    @cached_property
    def _norms(self) -> _Index:
        return _index_of(self.norms)

    def _read(self, path: str) -> Reading | None:
        return self._find(path, self._index)

    def _find(self, path: str, index: _Index) -> Reading | None:
        pattern, numbers = _numberless(path)
        for row, side, part, wanted in index.get(pattern, ()):
            pairs = list(zip(wanted, numbers, strict=True))
            if all(w in ("#", n) for w, n in pairs):
                found = Reading(row, side, part, tuple(n for w, n in pairs if w == "#"))
                return found if self._has_block(found) else None
        return None

    def _has_block(self, reading: Reading) -> bool:
        kind, number, _ = reading.template.partition(".#")
        return not number or int(reading.numbers[0]) < self.blocks.get(kind, 1 << 30)


# Rows by path without its numbers: each with the side, the part and the numbers of that path.
_Index = Mapping[str, tuple[tuple[Row, Side, int, tuple[str, ...]], ...]]


def _index_of(rows: Iterable[Row]) -> _Index:
    found: dict[str, list[tuple[Row, Side, int, tuple[str, ...]]]] = {}
    for row in rows:
        for side, part, template in _templates(row):
            pattern, numbers = _numberless(template)
            found.setdefault(pattern, []).append((row, side, part, numbers))
    return {pattern: tuple(mine) for pattern, mine in found.items()}


def _templates(row: Row) -> Iterator[tuple[Side, int, str]]:
    yield "original", 0, row.original
    if not row.is_same:
        for part, template in enumerate(row.diffusers):
            yield "diffusers", part, template


_NUMBER = re.compile(r"(?<![^_])(?:\d+|#)(?![^_])")


def _numberless(path: str) -> tuple[str, tuple[str, ...]]:
    """A path with dots as underscores and numbers as `#`, and what stood there."""
    flat = repaired(flattened(path))
    return _NUMBER.sub("#", flat), tuple(_NUMBER.findall(flat))


def same(*paths: str) -> tuple[Row, ...]:
    """Rows of modules that both sides call alike."""
    return tuple(Row(path, (path,)) for path in paths)


def renamed(names: Mapping[str, str], container: str = "", diffusers: str = "") -> tuple[Row, ...]:
    """Rows of modules that have another name in diffusers.

    Args:
        names: Original name to diffusers'.
        container: What stands before the original names.
        diffusers: What stands before diffusers'; the same if empty.
    """
    there = diffusers or container
    return tuple(Row(f"{container}{one}", (f"{there}{two}",)) for one, two in names.items())
