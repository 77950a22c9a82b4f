"""One file of a web site, read in place, as a store of one object."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from lego_ray.errors import (
    AccessDenied,
    ObjectNotFound,
    ReadOnlyStore,
    StorageError,
    StoreUnavailable,
)
from lego_ray.storage.base import ByteRange, ObjectInfo
from lego_ray.storage.fetch import REMOTE_MAX_GAP, REMOTE_MAX_REQUEST, fetch_ranges
from lego_ray.storage.keys import check_key
from lego_ray.storage.placed import PlacedStore
from lego_ray.storage.places import WebPlace
from lego_ray.storage.versions import changed, present
from lego_ray.storage.web_cache import cached, keep
from lego_ray.storage.web_client import Answer, ask, described

THREADS = 4
"""Requests of one call in flight: a site is not a bucket, and may count them."""

_STEP = 1 << 20
# Asked for to learn whether a site sends parts.
_FIRST = 8


class WebStore(PlacedStore[WebPlace]):
    """A file of a web site, or what lies beside one; it can only be read.

    The address is the file's own, whose name the site tells, or the folder's above it. A site cannot be
    listed: a listing has the one file, if the address is a file's. Where the site sends parts of
    files, these are read in place, else the file is kept in a cache under the hash of its bytes. Safe to
    share between threads.

    Args:
        address: `https://host/path`, with its query if it has one.
    """

    def __init__(self, address: str) -> None:
        super().__init__(WebPlace(address))
        self._lock = threading.RLock()
        # By key: the address that has it, and what the site said of it.
        self._known: dict[str, tuple[str, Answer]] = {}

    def __repr__(self) -> str:
        return f"WebStore({self.uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self._at.address}

    def __setstate__(self, state: dict[str, Any]) -> None:
        WebStore.__init__(self, state["address"])

    def _where(self, key: str) -> str:
        return f"{self.uri}/{key}"

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields the file at the address, if its name starts with `prefix`.

        Raises:
            ObjectNotFound: If a web page comes, or nothing.
        """
        address, answer = self._asked(self.uri, "")
        if answer.name.startswith(prefix):
            yield self._info(answer.name, address, answer)

    def stat(self, key: str) -> ObjectInfo:
        """Describes one file; its version is its ETag, its time, or the hash of its bytes."""
        check_key(self.uri, key)
        return self._info(key, *self._found(key))

    def _found(self, key: str) -> tuple[str, Answer]:
        """The address that has a file, and what the site says of it.

        Raises:
            ObjectNotFound: If neither the place of the key nor the address itself has it.
        """
        with self._lock:
            if key in self._known:
                return self._known[key]
            is_folder = "?" not in self.uri
            try:
                if is_folder:
                    return self._asked(self._where(key), key)
            except ObjectNotFound as error:
                missing = error
            except AccessDenied as error:
                # A site that does not say what it has says this of what it has not.
                if not self._known:
                    raise
                missing = ObjectNotFound(error.where, error.problem)
            else:
                missing = ObjectNotFound(self._where(key), "the file there has another name")
            if is_folder and any(address != self.uri for address, _ in self._known.values()):
                raise missing  # the address is a folder's
            try:
                address, answer = self._asked(self.uri, "")
            except StorageError:
                raise missing from None
            if answer.name != key:
                raise missing
            return address, answer

    def _asked(self, address: str, key: str) -> tuple[str, Answer]:
        with ask(address, 0, _FIRST) as found:
            answer = described(address, found)
        if answer.version == "" or answer.size is None:
            # Nothing says which content it is, except the content.
            answer = self._downloaded(address, answer)
        with self._lock:
            self._known[key or answer.name] = address, answer
        return address, answer

    def _info(self, key: str, address: str, answer: Answer) -> ObjectInfo:
        assert answer.size is not None, "files of unknown size are downloaded"
        return ObjectInfo(key, answer.size, answer.version, answer.modified_at)

    def _downloaded(self, address: str, answer: Answer) -> Answer:
        path, version = self._download(address, answer.version)
        size = path.stat().st_size
        return Answer(answer.name, size, version, answer.modified_at, has_ranges=False)

    def _download(self, address: str, version: str) -> tuple[Path, str]:
        with ask(address) as found:
            if version and described(address, found).version != version:
                raise changed(address)
            return keep(address, version, self._parts(address, found))

    def _parts(self, address: str, found: HTTPResponse) -> Iterator[bytes]:
        expected, done = found.length, 0
        try:
            while part := found.read(_STEP):
                done += len(part)
                self._meter.add(len(part))
                yield part
        except (HTTPException, OSError) as error:
            raise StoreUnavailable(address, f"the answer was cut short: {error}") from error
        if expected is not None and done != expected:
            raise StoreUnavailable(address, f"the answer was cut short: {done} of {expected} bytes")

    def read(self, key: str, version: str | None = None) -> bytes:
        """Reads the file whole.

        Raises:
            SourceChanged: If a version is given, and it has another by now or is gone.
        """
        info = self._of_version(key, version)
        return bytes(self.read_ranges(key, [ByteRange(0, info.size)], info.version)[0])

    def _of_version(self, key: str, version: str | None) -> ObjectInfo:
        with present(self._where(key), version):
            info = self.stat(key)
        if version is not None and info.version != version:
            raise changed(self._where(key))
        return info

    def read_ranges(
        self, key: str, ranges: Sequence[ByteRange], version: str | None = None
    ) -> Sequence[memoryview]:
        """Reads ranges of the file: in place where the site sends parts, else of the copy in the cache.

        Returns:
            One buffer a range, in the order asked.

        Raises:
            SourceChanged: If a version is given, and it has another by now or is gone.
            StorageError: If a range ends past the end of the file.
        """
        where = self._where(key)
        info = self._of_version(key, version)
        past = next((each for each in ranges if each.end > info.size), None)
        if past is not None:
            raise StorageError(
                where,
                f"bytes {past.start} to {past.end} were asked for, and it ends at {info.size}",
                "The file is truncated, or its header belongs to another file.",
            )
        address, answer = self._found(key)

        path = cached(address, info.version)
        if path is None and not answer.has_ranges:
            path, _ = self._download(address, info.version)

        def fetch(part: ByteRange, into: memoryview) -> None:
            if path is None:
                self._fetch(address, part, into, info.version)
                return
            with path.open("rb") as file:
                file.seek(part.start)
                into[:] = file.read(part.size)

        return fetch_ranges(
            where,
            ranges,
            fetch,
            max_gap=REMOTE_MAX_GAP,
            max_request=REMOTE_MAX_REQUEST,
            threads=THREADS,
        )

    def _fetch(self, address: str, part: ByteRange, into: memoryview, version: str) -> None:
        with present(address, version), ask(address, part.start, part.end) as found:
            answer = described(address, found)
            if answer.version != version:
                raise changed(address)
            sent = found.headers.get("Content-Range", "the whole file")
            if not sent.startswith(f"bytes {part.start}-{part.end - 1}/"):
                raise StoreUnavailable(address, f"a part was asked for, and the site sent {sent}")
            data = b"".join(self._parts(address, found))
        if len(data) != part.size:
            raise StoreUnavailable(address, f"{len(data)} of {part.size} bytes came")
        into[:] = data

    def create(self, key: str, data: bytes) -> None:
        """Refuses.

        Raises:
            ReadOnlyStore: Always.
        """
        raise ReadOnlyStore(self._where(key), "a web site can only be read")

    def create_from(self, key: str, size: int, parts: Iterable[bytes]) -> None:
        """Refuses.

        Raises:
            ReadOnlyStore: Always.
        """
        raise ReadOnlyStore(self._where(key), "a web site can only be read")

    def delete(self, key: str) -> None:
        """Refuses.

        Raises:
            ReadOnlyStore: Always.
        """
        raise ReadOnlyStore(self._where(key), "a web site can only be read")
