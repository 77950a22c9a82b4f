"""Bytes on S3, and on servers that speak it."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from lego_ray.errors import AlreadyExists, ObjectNotFound, StorageError, StoreUnavailable
from lego_ray.storage.base import ByteRange, ObjectInfo
from lego_ray.storage.buckets import bucket_settings
from lego_ray.storage.fetch import (
    REMOTE_MAX_GAP,
    REMOTE_MAX_REQUEST,
    REMOTE_THREADS,
    fetch_ranges,
)
from lego_ray.storage.keys import check_key
from lego_ray.storage.parts import of_size, regrouped
from lego_ray.storage.placed import PlacedStore
from lego_ray.storage.places import S3Place
from lego_ray.storage.s3_body import CutBodyError, read_body, whole_head
from lego_ray.storage.s3_client import ATTEMPTS, s3_client
from lego_ray.storage.s3_errors import refusal, s3_errors, said_by_server
from lego_ray.storage.s3_hints import ANOTHER_ANSWERS, CREATE_ONLY
from lego_ray.storage.s3_upload import UPLOAD_PART, multipart, part_size
from lego_ray.storage.versions import changed, present

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

CONFLICT_TRIES = 6
"""Times a create is tried while other writers of the same key are still being decided (409)."""

_WRITER = "lego-ray-writer"


class S3Store(PlacedStore[S3Place]):
    """A bucket, or a prefix in one, as a store.

    The bucket's own settings come first, of `lego-ray.toml` or a recipe file. The rest of credentials,
    region, endpoint, proxy and certificates come from boto3's own chain: environment,
    shared files, container or instance role. Credentials are looked for again after a refusal.
    `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` name another server than AWS, which is then addressed
    by path unless the shared config says otherwise. Every request is tried `attempts` times at most, in
    boto3's standard mode. Safe to share between threads; a pickled store opens new connections.

    Args:
        bucket: Its name.
        prefix: Path all keys lie below; may be empty.
        endpoint_url: Server to use instead of the one the environment names.
        attempts: Tries of one request, the first included.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        super().__init__(S3Place(bucket, prefix.strip("/")))
        self._below = f"{self._at.prefix}/" if self._at.prefix else ""
        self._endpoint_url = endpoint_url
        self._attempts = attempts

    def __repr__(self) -> str:
        return f"S3Store({self._at.bucket!r}, {self._at.prefix!r})"

    @property
    def _client(self) -> S3Client:
        bucket = bucket_settings(self._at.scheme, self._at.bucket)
        return s3_client(self._endpoint_url, self._attempts, bucket)

    def _where(self, key: str) -> str:
        return f"s3://{self._at.bucket}/{self._below}{key}"

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields every object whose key starts with `prefix`, in key order, 1,000 a request.

        Empty objects whose key ends in a slash, which consoles show as folders, are left out.
        """
        with s3_errors(self.uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._at.bucket, Prefix=self._below + prefix
            )
            for page in pages:
                if "IsTruncated" not in page:  # a server of S3 always says it
                    problem = "the answer is not a listing of S3"
                    raise StoreUnavailable(self.uri, problem, ANOTHER_ANSWERS)
                for entry in page.get("Contents", []):
                    key = entry["Key"][len(self._below) :]
                    if key and not key.endswith("/"):
                        yield ObjectInfo(
                            key, entry["Size"], entry["ETag"].strip('"'), entry.get("LastModified")
                        )

    def stat(self, key: str) -> ObjectInfo:
        """Describes one object; its version is its ETag."""
        tries = 0
        with s3_errors(self._where(key)):
            client = self._client
            while True:
                tries += 1
                try:
                    found = whole_head(
                        lambda: client.head_object(Bucket=self._at.bucket, Key=self._below + key)
                    )
                    break
                except CutBodyError:
                    if tries >= self._attempts:
                        raise
        return ObjectInfo(
            key, found["ContentLength"], found["ETag"].strip('"'), found.get("LastModified")
        )

    def read(self, key: str, version: str | None = None) -> bytes:
        """Reads one object whole.

        Raises:
            SourceChanged: If a version is given, and it has another by now or is gone.
        """
        data = bytearray()

        def place(found: GetObjectOutputTypeDef) -> memoryview:
            nonlocal data
            data = bytearray(found["ContentLength"])
            return memoryview(data)

        self._get(key, {}, place, version)
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
        where = self._where(key)
        versions: set[str] = set()

        def fetch(part: ByteRange, into: memoryview) -> None:
            versions.add(self._fetch(key, part, into, version))

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

    def _fetch(self, key: str, part: ByteRange, into: memoryview, version: str | None) -> str:
        """Fills `into` with one range and returns the ETag of what it came from."""

        def place(found: GetObjectOutputTypeDef) -> memoryview:
            # A range that ends past the object is answered with less; some servers ignore ranges.
            got = found.get("ContentRange", "the whole object")
            if not got.startswith(f"bytes {part.start}-{part.end - 1}/"):
                raise StorageError(
                    self._where(key),
                    f"bytes {part.start} to {part.end} were asked for, and the server sent {got}",
                    "The object is truncated, or its header belongs to another file.",
                )
            return into

        return self._get(key, {"Range": f"bytes={part.start}-{part.end - 1}"}, place, version)

    def _get(
        self,
        key: str,
        asked: dict[str, str],
        place: Callable[[GetObjectOutputTypeDef], memoryview],
        version: str | None,
    ) -> str:
        """Reads an answer's body into the buffer `place` gives for it, and returns its ETag.

        boto3 repeats what fails before the answer; a body that breaks off is repeated here. Each of
        these requests asks for the version.
        """
        where = self._where(key)
        tries = 0
        # A weak ETag never matches by If-Match, so there the answer's own has to do.
        if version is not None and not version.startswith("W/"):
            asked = {**asked, "IfMatch": f'"{version}"'}
        with present(where, version), s3_errors(where):
            client = self._client
            while True:
                tries += 1
                try:
                    found = whole_head(
                        lambda: client.get_object(
                            Bucket=self._at.bucket,
                            Key=self._below + key,
                            **asked,  # type: ignore[arg-type]
                        )
                    )
                    with closing(found["Body"]):
                        # Some servers take no notice of If-Match.
                        if version is not None and found["ETag"].strip('"') != version:
                            raise changed(where)
                        self._meter.add(read_body(found["Body"], place(found)))
                    return found["ETag"]
                except CutBodyError:
                    if tries >= self._attempts:
                        raise

    def create(self, key: str, data: bytes) -> None:
        """Writes a new object, atomically: no reader ever sees part of it.

        A write that got through while its answer was lost is known by a mark in the object's
        metadata, so the retry of it does not report the object as someone else's.

        Raises:
            AlreadyExists: If there is one; it is left as it was. A server that ignores
                `If-None-Match` overwrites it instead: see `probe_create_only`.
        """
        check_key(self.uri, key)
        where = self._where(key)
        writer = secrets.token_hex(16)
        tries = 0
        with s3_errors(where):
            from botocore.exceptions import ClientError

            while True:
                tries += 1
                try:
                    self._client.put_object(
                        Bucket=self._at.bucket,
                        Key=self._below + key,
                        Body=data,
                        IfNoneMatch="*",
                        Metadata={_WRITER: writer},
                    )
                    return
                except ClientError as error:
                    answer = refusal(error)
                    if answer.status == 412:
                        if (answer.retried or tries > 1) and self._wrote(key, writer):
                            return
                        raise AlreadyExists(where, "an object already exists there") from None
                    if answer.status == 501:
                        raise StorageError(where, said_by_server(answer), CREATE_ONLY) from error
                    if answer.code != "ConditionalRequestConflict" or tries >= CONFLICT_TRIES:
                        raise
                # 25 to 50 ms, doubled each try: 0.8 to 1.6 s in all.
                time.sleep(0.05 * 2 ** (tries - 1) * random.uniform(0.5, 1))

    def create_from(self, key: str, size: int, parts: Iterable[bytes]) -> None:
        """Writes a new object part by part; above `UPLOAD_PART` bytes by a multipart upload.

        Raises:
            AlreadyExists: If there is one; it is left as it was.
            StorageError: If the parts have another size together; nothing is written.
        """
        check_key(self.uri, key)
        where = self._where(key)
        checked = of_size(where, size, parts)
        if size <= UPLOAD_PART:
            self.create(key, b"".join(checked))
            return
        with contextlib.suppress(ObjectNotFound):
            self.stat(key)
            raise AlreadyExists(where, "an object already exists there")
        with multipart(self._client, self._at.bucket, self._below + key, where) as send:
            for part in regrouped(checked, part_size(size)):
                send(part)

    def _wrote(self, key: str, writer: str) -> bool:
        """Whether the object in place is the one this call wrote."""
        from botocore.exceptions import ClientError

        try:
            found = self._client.head_object(Bucket=self._at.bucket, Key=self._below + key)
        except ClientError:
            # Gone again, or it may be written and not read: then nothing says it is ours.
            return False
        return found["Metadata"].get(_WRITER) == writer

    def delete(self, key: str) -> None:
        """Removes one object; one that is not there is no error."""
        check_key(self.uri, key)
        with s3_errors(self._where(key)):
            self._client.delete_object(Bucket=self._at.bucket, Key=self._below + key)
