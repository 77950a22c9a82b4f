"""One model under two sets of names: an architecture's table, and how its rows are found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lego_ray.formats.architectures.row import Reading, Row, Side
from lego_ray.formats.module_names import flattened, repaired


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
        beside: Parts of diffusers' pipeline beside the denoiser that have some of the authors' modules.
            diffusers' paths of these begin with the name of the part.
    """

    name: str
    rows: tuple[Row, ...]
    component: str = "transformer"
    kohya: Side = "original"
    bases: str = ""
    blocks: Mapping[str, int] = field(default_factory=dict)
    norms: tuple[Row, ...] = ()
    beside: tuple[str, ...] = ()
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

    def site(self, prefix: str, path: str) -> str:
        """A module's name: a prefix and its path, or the path alone if that names a part of a pipeline.

        Args:
            prefix: What names of the denoiser begin with; with an underscore at its end, dots of the
                path become underscores.
            path: The module's path, dotted.
        """
        if self.is_beside(path):
            return path
        return f"{prefix}{flattened(path) if prefix.endswith('_') else path}"

    def is_beside(self, path: str) -> bool:
        """Whether a dotted path is of a part of diffusers' pipeline beside the denoiser.

        Args:
            path: Of a module.
        """
        return path.partition(".")[0] in self.beside

    @cached_property
    def is_exact(self) -> bool:
        """Whether its modules have widths that no other model with their names has."""
        return any(row.d_in for row in self.rows)

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
