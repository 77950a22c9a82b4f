"""A seekable file over ranged reads, for formats read through a file object."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING

from lego_ray.storage.base import ByteRange, Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 64 << 10
"""Bytes fetched at least. A zip's directory of a few hundred tensors fits in one or two."""

MAX_BLOCKS = 16
"""Blocks kept: 1 MiB. Longer reads pass the cache by, so tensor data is never held here."""


class RangedFile(io.RawIOBase):
    """Reads one object as a binary file, fetching only the blocks that are touched.

    Not safe to share between threads.

    Args:
        store: The store the object is in.
        key: Its key.
        size: Its size in bytes, as `stat` or `list` returned it.
        version: Its version, as they returned it: every block is of that one. None takes what is there.
    """

    def __init__(self, store: Store, key: str, size: int, version: str | None = None) -> None:
        super().__init__()
        self._version = version
        self._store = store
        self._key = key
        self._size = size
        self._position = 0
        self._blocks: OrderedDict[int, memoryview] = OrderedDict()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position, which may lie past the end.

        Args:
            offset: Bytes.
            whence: From the start, the position, or the end.

        Returns:
            The new position.

        Raises:
            ValueError: If it would lie before the start, or `whence` is none of the three.
        """
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in origins:
            raise ValueError(f"whence is {whence}, expected 0, 1 or 2")
        position = origins[whence] + offset
        if position < 0:
            raise ValueError(f"position {position} lies before the start of the file")
        self._position = position
        return position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fills a buffer from the position on.

        Args:
            buffer: Where the bytes go.

        Returns:
            Bytes read: the whole buffer's size, or less at the end of the file.

        Raises:
            SourceChanged: If the object has another version by now, or is gone.
            StorageError: If the object is shorter than it was said to be.
        """
        if self.closed:
            raise ValueError("the file is closed")
        target = memoryview(buffer).cast("B")
        start = self._position
        end = max(start, min(self._size, start + len(target)))
        if end - start > BLOCK * MAX_BLOCKS:
            [whole] = self._store.read_ranges(self._key, [ByteRange(start, end)], self._version)
            target[: end - start] = whole
        elif end > start:
            first, last = start // BLOCK, (end - 1) // BLOCK
            self._load(first, last)
            for index in range(first, last + 1):
                base = index * BLOCK
                piece = self._blocks[index][max(0, start - base) : end - base]
                at = max(start, base) - start
                target[at : at + len(piece)] = piece
            while len(self._blocks) > MAX_BLOCKS:
                self._blocks.popitem(last=False)
        self._position = end
        return end - start

    def _load(self, first: int, last: int) -> None:
        """Has the blocks `first` to `last` in the cache, as its most recently used."""
        missing = [index for index in range(first, last + 1) if index not in self._blocks]
        ranges = [ByteRange(i * BLOCK, min(self._size, (i + 1) * BLOCK)) for i in missing]
        if ranges:
            views = self._store.read_ranges(self._key, ranges, self._version)
            self._blocks.update(zip(missing, views, strict=True))
        for index in range(first, last + 1):
            self._blocks.move_to_end(index)
