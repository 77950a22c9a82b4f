"""Hashes of what was read of many adapters, in 32 bytes a tensor."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

Pairs = tuple[tuple[str, str], ...]

_SIZE = 32  # of a sha256


class TensorHashes(Mapping[int, Pairs]):
    """Name and hex sha256 of each tensor that was read, by the number of its adapter.

    As tuples and text they take 80 kB of an adapter with 448 tensors; here 14 kB. Adapters with the
    same names, in the same order, share them.
    """

    __slots__ = ("_digests", "_kinds", "_known", "_names", "_numbers", "_starts")

    def __init__(self, found: Iterable[tuple[int, Iterable[tuple[str, str]]]] = ()) -> None:
        """Takes what is known.

        Args:
            found: Adapters and their pairs.

        Raises:
            ValueError: If a hash is not a sha256 in hex.
        """
        self._numbers = array("q")  # rising
        self._starts = array("q")  # where each one's digests begin
        self._kinds = array("q")  # which of the names it has
        self._digests = bytearray()
        self._names: list[tuple[str, ...]] = []
        self._known: dict[tuple[str, ...], int] = {}
        for number, pairs in found:
            self.add(number, pairs)

    def add(self, number: int, pairs: Iterable[tuple[str, str]]) -> None:
        """Takes an adapter's pairs, in place of those it had.

        Args:
            number: The adapter's.
            pairs: Name and hex sha256 of each tensor.

        Raises:
            ValueError: If a hash is not a sha256 in hex.
        """
        given = list(pairs)
        names = tuple(name for name, _ in given)
        digests = b"".join(bytes.fromhex(digest) for _, digest in given)
        if len(digests) != _SIZE * len(names):
            raise ValueError(f"a hash of adapter {number} is not a sha256")
        kind = self._known.setdefault(names, len(self._names))
        if kind == len(self._names):
            self._names.append(names)
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            self._numbers.insert(at, number)
            self._starts.insert(at, 0)
            self._kinds.insert(at, 0)
        self._starts[at], self._kinds[at] = len(self._digests), kind
        self._digests += digests

    def __getitem__(self, number: int) -> Pairs:
        """An adapter's pairs, in the order they were given in."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            raise KeyError(number)
        start = self._starts[at]
        return tuple(
            (name, self._digests[start + _SIZE * n : start + _SIZE * (n + 1)].hex())
            for n, name in enumerate(self._names[self._kinds[at]])
        )

    def __iter__(self) -> Iterator[int]:
        """Numbers of the adapters, rising."""
        return iter(self._numbers)

    def __len__(self) -> int:
        """How many adapters there are."""
        return len(self._numbers)

    def __contains__(self, number: object) -> bool:
        """Whether anything was read of an adapter; its pairs are not made for that."""
        at = bisect_left(self._numbers, number) if isinstance(number, int) else len(self._numbers)
        return at < len(self._numbers) and self._numbers[at] == number


class AllHashes(Mapping[int, frozenset[tuple[str, str]]]):
    """What the tasks of a plan read together: one adapter's pairs at a time are in memory."""

    def __init__(self, n_adapters: int, parts: Iterable[Mapping[int, Pairs]]) -> None:
        """Copies nothing.

        Args:
            n_adapters: How many adapters the plan has.
            parts: What each task read; parts may share tensors.
        """
        self._n = n_adapters
        self._parts = tuple(parts)

    def __getitem__(self, number: int) -> frozenset[tuple[str, str]]:
        """An adapter's pairs, each once."""
        if not 0 <= number < self._n:
            raise KeyError(number)
        return frozenset(pair for part in self._parts for pair in part.get(number, ()))

    def __iter__(self) -> Iterator[int]:
        """Numbers of the adapters."""
        return iter(range(self._n))

    def __len__(self) -> int:
        """How many adapters there are."""
        return self._n
