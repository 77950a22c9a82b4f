"""An object sent to S3 in parts: it exists whole, or not at all."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lego_ray.errors import AlreadyExists
from lego_ray.storage.s3_errors import refusal, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

UPLOAD_PART = 64 << 20
"""Bytes of one part. What is not larger is sent in one request."""

_MOST_PARTS = 10_000  # S3's limit
_WRITER = "lego-ray-writer"


def part_size(size: int) -> int:
    """Bytes of each part of an object, so that there are not more than S3 allows."""
    return max(UPLOAD_PART, -(-size // _MOST_PARTS))


@contextlib.contextmanager
def multipart(
    client: S3Client, bucket: str, key: str, where: str
) -> Iterator[Callable[[bytes], None]]:
    """Gives what sends a part; the object is made at the end of the block, unless it raises.

    Args:
        client: The client.
        bucket: The bucket.
        key: The object's, in the bucket.
        where: Its URI, for errors.

    Raises:
        AlreadyExists: If there is an object by then; it is left as it was.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    writer = secrets.token_hex(16)
    at: Any = {"Bucket": bucket, "Key": key}
    with s3_errors(where):
        upload = client.create_multipart_upload(**at, Metadata={_WRITER: writer})["UploadId"]
    sent: list[Any] = []

    def send(part: bytes) -> None:
        number = len(sent) + 1
        with s3_errors(where):
            answer = client.upload_part(**at, UploadId=upload, PartNumber=number, Body=part)
        sent.append({"ETag": answer["ETag"], "PartNumber": number})

    try:
        yield send
        with s3_errors(where):
            try:
                client.complete_multipart_upload(
                    **at, UploadId=upload, MultipartUpload={"Parts": sent}, IfNoneMatch="*"
                )
            except ClientError as error:
                answer = refusal(error)
                # A retry of one that got through finds no upload any more, or its own object.
                if answer.status in (404, 412) and _is_of(client, at, writer):
                    return
                if answer.status == 412:
                    raise AlreadyExists(where, "an object already exists there") from None
                raise
    except BaseException:
        with contextlib.suppress(ClientError, BotoCoreError):  # parts that were sent cost money
            client.abort_multipart_upload(**at, UploadId=upload)
        raise


def _is_of(client: S3Client, at: Any, writer: str) -> bool:
    """Whether the object in place is the one this upload made."""
    from botocore.exceptions import ClientError

    try:
        return client.head_object(**at)["Metadata"].get(_WRITER) == writer
    except ClientError:
        return False
