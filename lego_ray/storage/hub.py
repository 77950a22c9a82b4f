"""Bytes of a model repository on the Hugging Face Hub, read in place."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lego_ray.errors import ObjectNotFound, ReadOnlyStore, StorageError
from lego_ray.storage.base import ByteRange, ObjectInfo
from lego_ray.storage.fetch import (
    REMOTE_MAX_GAP,
    REMOTE_MAX_REQUEST,
    REMOTE_THREADS,
    fetch_ranges,
)
from lego_ray.storage.hub_client import HubClient
from lego_ray.storage.keys import check_key
from lego_ray.storage.placed import PlacedStore
from lego_ray.storage.places import HubPlace

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubStore(PlacedStore[HubPlace]):
    """A model repository, or a folder of one, as a store that can only be read.

    The revision asked for is resolved to a commit once, at first use, and everything is read from
    that commit, also by pickled copies; pickling a store resolves it. Endpoint and token are
    huggingface_hub's: `HF_ENDPOINT`, `HF_TOKEN`, or the token `hf auth login` saved. Safe to share
    between threads.

    Args:
        repo_id: `owner/name`.
        revision: Branch, tag or commit; empty for the default branch.
        subfolder: Path in the repository all keys lie below; may be empty.
    """

    def __init__(self, repo_id: str, revision: str = "", subfolder: str = "") -> None:
        super().__init__(HubPlace(repo_id, revision, subfolder.strip("/")))
        self._below = f"{self._at.subfolder}/" if self._at.subfolder else ""
        self._client = HubClient(repo_id)
        self._commit = ""
        self._files: dict[str, ObjectInfo] | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"HubStore({self._at.repo_id!r}, {self._at.revision!r}, {self._at.subfolder!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"at": self._at, "commit": self.revision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        at: HubPlace = state["at"]
        HubStore.__init__(self, at.repo_id, at.revision, at.subfolder)
        self._commit = state["commit"]

    @property
    def revision(self) -> str:
        """The commit everything is read from; resolves it if that was not done yet."""
        with self._lock:
            if not self._commit:
                asked = self._at.revision
                # A full hash is the commit; asking would cost each task a request an adapter.
                pinned = _COMMIT.fullmatch(asked) is not None
                if pinned:
                    self._commit = asked
                else:
                    self._commit, files = self._client.commit(self.uri, asked)
                    if files and any(info.key.startswith(self._below) for info in files):
                        self._files = self._shortened(files)
            return self._commit

    def _where(self, key: str) -> str:
        return f"{self.uri}/{key}"

    def _listing(self) -> dict[str, ObjectInfo]:
        """Every file below the root by key, in key order; asked for once, as a commit is fixed."""
        with self._lock:
            commit = self.revision  # whose answer may list them
            if self._files is None:
                found = self._client.files(self.uri, commit, self._at.subfolder)
                self._files = self._shortened(found)
            return self._files

    def _shortened(self, found: Iterable[ObjectInfo]) -> dict[str, ObjectInfo]:
        """Files of the repository by their keys below the root, in key order."""
        short = (
            ObjectInfo(info.key.removeprefix(self._below), info.size, info.version)
            for info in found
            if info.key.startswith(self._below)
        )
        return {info.key: info for info in sorted(short, key=lambda info: info.key)}

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields every file whose key starts with `prefix`, in key order."""
        for key, info in self._listing().items():
            if key.startswith(prefix):
                yield info

    def stat(self, key: str) -> ObjectInfo:
        """Describes one file; its version is the sha256 of a large file, else its git blob hash."""
        check_key(self.uri, key)
        info = self._listing().get(key)
        if info is None:
            raise ObjectNotFound(
                self._where(key), f"there is no such file at commit {self.revision}"
            )
        return info

    def read(self, key: str, version: str | None = None) -> bytes:
        """Reads one file whole.

        Raises:
            SourceChanged: If a version is given and the bytes are not of that hash, which at a commit
                only a mirror's can be.
        """
        check_key(self.uri, key)
        where = self._where(key)
        data = self._client.get(where, self.revision, self._below + key, None, version)
        self._meter.add(len(data))
        return data

    def read_ranges(
        self, key: str, ranges: Sequence[ByteRange], version: str | None = None
    ) -> Sequence[memoryview]:
        """Reads ranges of one file, near ones in one request, large ones in several at once.

        Returns:
            One buffer a range, in the order asked.

        Raises:
            SourceChanged: If a version is given, and the Hub says that it sends another.
            StorageError: If a range ends past the end of the file.
        """
        check_key(self.uri, key)
        where = self._where(key)

        def fetch(part: ByteRange, into: memoryview) -> None:
            data = self._client.get(where, self.revision, self._below + key, part, version)
            self._meter.add(len(data))
            if len(data) != part.size:
                raise StorageError(
                    where,
                    f"bytes {part.start} to {part.end} were asked for, and {len(data)} bytes came",
                    "The file is truncated, or its header belongs to another file.",
                )
            into[:] = data

        return fetch_ranges(
            where,
            ranges,
            fetch,
            max_gap=REMOTE_MAX_GAP,
            max_request=REMOTE_MAX_REQUEST,
            threads=REMOTE_THREADS,
        )

    def create(self, key: str, data: bytes) -> None:
        """Refuses: the Hub is written to by the commit, through `HubRepository`.

        Raises:
            ReadOnlyStore: Always.
        """
        raise self._read_only(key)

    def create_from(self, key: str, size: int, parts: Iterable[bytes]) -> None:
        """Refuses: the Hub is written to by the commit, through `HubRepository`.

        Raises:
            ReadOnlyStore: Always.
        """
        raise self._read_only(key)

    def delete(self, key: str) -> None:
        """Refuses: the Hub is written to by the commit, through `HubRepository`.

        Raises:
            ReadOnlyStore: Always.
        """
        raise self._read_only(key)

    def _read_only(self, key: str) -> ReadOnlyStore:
        return ReadOnlyStore(
            self._where(key),
            "the Hub accepts commits, not single files",
            "Write to a directory or to S3, then `lego-ray publish` it to the Hub.",
        )
