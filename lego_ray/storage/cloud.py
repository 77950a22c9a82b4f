"""Bytes on Google Cloud Storage and Azure Blob Storage, through obstore."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lego_ray.errors import AlreadyExists, ObjectNotFound, StorageError, StoreUnavailable
from lego_ray.storage.base import ByteRange, ObjectInfo
from lego_ray.storage.cloud_client import cloud_client
from lego_ray.storage.cloud_errors import cloud_errors
from lego_ray.storage.fetch import (
    REMOTE_MAX_GAP,
    REMOTE_MAX_REQUEST,
    REMOTE_THREADS,
    fetch_ranges,
)
from lego_ray.storage.file_walk import TEMPORARY
from lego_ray.storage.keys import check_key
from lego_ray.storage.parts import of_size
from lego_ray.storage.placed import PlacedStore
from lego_ray.storage.places import AzPlace, CloudPlace, GsPlace
from lego_ray.storage.versions import changed, present

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import AzureStore, GCSStore

UPLOAD_PART = 32 << 20
"""Bytes of one part. What is not larger is sent in one request."""

_MOST_PARTS = 10_000  # Google's limit; Azure's is 50,000
# Azure accepts only letters, digits and underscores.
_WRITER = "lego_ray_writer"
_PAGE = 1000
_COPY_WAITS = 60


class CloudStore(PlacedStore[CloudPlace]):
    """A bucket, or a prefix in one, as a store; base of the two kinds.

    The bucket's own settings come first, of `lego-ray.toml` or a recipe file. The rest is found as
    `cloud_client` says. Safe to share between threads; a pickled store opens new connections.

    Args:
        bucket: Its name; at Azure, the container's.
        prefix: Path all keys lie below; may be empty.
    """

    kind: ClassVar[type[CloudPlace]]

    def __init__(self, bucket: str, prefix: str = "") -> None:
        super().__init__(self.kind(bucket, prefix.strip("/")))
        self._below = f"{self._at.prefix}/" if self._at.prefix else ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._at.bucket!r}, {self._at.prefix!r})"

    @property
    def _client(self) -> GCSStore | AzureStore:
        return cloud_client(self._at)

    def _where(self, key: str) -> str:
        return f"{self._at.scheme}://{self._at.bucket}/{self._below}{key}"

    def _check(self, key: str) -> None:
        check_key(self.uri, key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields every object whose key starts with `prefix`, in key order, 1,000 a request.

        The whole listing is in memory before the first is yielded, because a server may have another
        order. Objects of no bytes with others below them, which consoles show as folders, are left out,
        and so is what is still being written.
        """
        return (info for info in self._all(prefix) if not _is_unfinished(info.key))

    def unfinished(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Yields what is being sent in parts below a folder, or was when its writer was killed."""
        below = f"{folder}/" if folder else ""
        return (info for info in self._all(below) if _is_unfinished(info.key))

    def _all(self, prefix: str) -> Iterator[ObjectInfo]:
        # The library lists folders, and takes no start of a name.
        folder = (self._below + prefix).rpartition("/")[0]
        if any(part in ("", ".", "..") for part in folder.split("/")) and folder:
            return
        with cloud_errors(self.uri):
            client = self._client
            import obstore

            pages = obstore.list(client, folder or None, chunk_size=_PAGE, return_arrow=False)
            found = [each for page in pages for each in page]
        infos = sorted(
            (self._info(each) for each in found if each["path"].startswith(self._below + prefix)),
            key=lambda info: info.key,
        )
        folders = {
            info.key[:end] for info in infos for end, letter in enumerate(info.key) if letter == "/"
        }
        for info in infos:
            hidden = info.size == 0 and info.key in folders
            if info.key and not hidden:
                yield info

    def _info(self, found: ObjectMeta) -> ObjectInfo:
        return ObjectInfo(
            found["path"][len(self._below) :],
            found["size"],
            (found["e_tag"] or "").strip('"'),
            found["last_modified"],
        )

    def stat(self, key: str) -> ObjectInfo:
        """Describes one object; its version is its ETag."""
        self._check(key)
        with cloud_errors(self._where(key)):
            client = self._client
            import obstore

            return self._info(obstore.head(client, self._below + key))

    def read(self, key: str, version: str | None = None) -> bytes:
        """Reads one object whole.

        Raises:
            SourceChanged: If a version is given, and it has another by now or is gone.
        """
        self._check(key)
        data, _ = self._get(key, None, version)
        return bytes(data)

    def read_ranges(
        self, key: str, ranges: Sequence[ByteRange], version: str | None = None
    ) -> Sequence[memoryview]:
        """Reads ranges of one object, near ones in one request, large ones in several at once.

        Returns:
            One buffer a range, in the order asked.

        Raises:
            SourceChanged: If a version is given, and it has another by now or is gone.
            StorageError: If a range ends past the end of the object, or the object was replaced
                between two of the requests.
        """
        self._check(key)
        where = self._where(key)
        versions: set[str] = set()

        def fetch(part: ByteRange, into: memoryview) -> None:
            data, etag = self._get(key, part, version)
            into[:] = data
            versions.add(etag)

        views = fetch_ranges(
            where,
            ranges,
            fetch,
            max_gap=REMOTE_MAX_GAP,
            max_request=REMOTE_MAX_REQUEST,
            threads=REMOTE_THREADS,
        )
        if len(versions) > 1:
            raise StorageError(
                where,
                "the object was replaced while it was read",
                "Run again when nothing writes to it.",
            )
        return views

    def _get(self, key: str, part: ByteRange | None, version: str | None) -> tuple[memoryview, str]:
        """The bytes of an object or a part of it, and the ETag of what they came from."""
        where = self._where(key)
        options: Any = {}
        if part is not None:
            options["range"] = (part.start, part.end)
        if version is not None and not version.startswith("W/"):
            options["if_match"] = f'"{version}"'
        with present(where, version), cloud_errors(where):
            client = self._client
            import obstore

            found = obstore.get(client, self._below + key, options=options)
            etag = (found.meta["e_tag"] or "").strip('"')
            # Some servers take no notice of If-Match.
            if version is not None and etag != version:
                raise changed(where)
            if part is not None and tuple(found.range) != (part.start, part.end):
                raise StorageError(
                    where,
                    f"bytes {part.start} to {part.end} were asked for, and it ends at "
                    f"{found.meta['size']}",
                    "The object is truncated, or its header belongs to another file.",
                )
            size = found.meta["size"] if part is None else part.size
            data = memoryview(found.bytes())
        self._meter.add(len(data))
        if len(data) != size:
            raise StoreUnavailable(where, f"the answer was cut short: {len(data)} of {size} bytes")
        return data, etag

    def create(self, key: str, data: bytes) -> None:
        """Writes a new object, atomically: no reader ever sees part of it.

        A write that got through while its answer was lost is known by a mark in the object's
        metadata, so the retry of it does not report the object as someone else's.

        Raises:
            AlreadyExists: If there is one; it is left as it was.
        """
        self._check(key)
        writer = secrets.token_hex(16)
        try:
            with cloud_errors(self._where(key)):
                client = self._client
                import obstore

                obstore.put(
                    client,
                    self._below + key,
                    data,
                    mode="create",
                    use_multipart=False,
                    attributes={_WRITER: writer},
                )
        except AlreadyExists:
            # The library tries again by itself, and does not say that it did.
            if not self._wrote(key, writer):
                raise

    def create_from(self, key: str, size: int, parts: Iterable[bytes]) -> None:
        """Writes a new object part by part; above `UPLOAD_PART` bytes by an upload in parts.

        Such an upload would replace an object that exists. So it gets another name first, and the server
        copies it to `key`, which it does only if nothing is at `key`.

        Raises:
            AlreadyExists: If there is one; it is left as it was.
            StorageError: If the parts have another size together; nothing is written.
        """
        self._check(key)
        where = self._where(key)
        checked = of_size(where, size, parts)
        if size <= UPLOAD_PART:
            self.create(key, b"".join(checked))
            return
        with contextlib.suppress(ObjectNotFound):
            self.stat(key)
            raise AlreadyExists(where, "an object already exists there")
        folder = key.rpartition("/")[0]
        upload = f"{folder}/{TEMPORARY}".lstrip("/") + secrets.token_hex(8)
        with cloud_errors(where):
            client = self._client
            import obstore

            try:
                obstore.put(
                    client,
                    self._below + upload,
                    checked,
                    use_multipart=True,
                    chunk_size=max(UPLOAD_PART, -(-size // _MOST_PARTS)),
                    max_concurrency=4,
                )
                obstore.copy(client, self._below + upload, self._below + key, overwrite=False)
                self._await_copy(key, size)
            finally:
                self._remove(upload)

    def _await_copy(self, key: str, size: int) -> None:
        """Waits until a copy is whole: Azure may answer before it is."""
        for _ in range(_COPY_WAITS):
            if self.stat(key).size == size:
                return
            time.sleep(1)
        raise StoreUnavailable(self._where(key), "the server has not finished copying it")

    def _wrote(self, key: str, writer: str) -> bool:
        """Whether the object in place is the one this call wrote."""
        with contextlib.suppress(StorageError), cloud_errors(self._where(key)):
            client = self._client
            import obstore

            found = obstore.get(client, self._below + key, options={"head": True})
            return found.attributes.get(_WRITER) == writer
        # Gone again, or it may be written and not read: then nothing says it is ours.
        return False

    def delete(self, key: str) -> None:
        """Removes an object, if it exists."""
        self._check(key)
        with cloud_errors(self._where(key)):
            self._remove(key)

    def _remove(self, key: str) -> None:
        client = self._client
        import obstore

        with contextlib.suppress(FileNotFoundError):
            obstore.delete(client, self._below + key)


def _is_unfinished(key: str) -> bool:
    return key.rpartition("/")[2].startswith(TEMPORARY)


class GsStore(CloudStore):
    """A bucket of Google Cloud Storage, or a prefix in one."""

    kind = GsPlace


class AzStore(CloudStore):
    """A container of Azure Blob Storage, or a prefix in one."""

    kind = AzPlace

    def _check(self, key: str) -> None:
        check_key(self.uri, key)
        if "\\" in key:
            raise StorageError(
                self.uri,
                f"the key {key!r} is refused: Azure would write it with / in place of \\",
                "Use a name without backslashes.",
            )
