"""Reads an S3 answer, and tells when it broke off."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from botocore.response import StreamingBody

STEP = 1 << 20
"""Bytes taken from the socket at once: urllib3 copies each step, and 1 MiB stays in cache."""


T = TypeVar("T")

_RANGE = re.compile(r"bytes \d+-\d+/(\d+|\*)")


class CutBodyError(Exception):
    """The connection ended before the answer did."""


def whole_head(ask: Callable[[], T]) -> T:
    """Asks for an object, or for its description, and checks that the head of the answer is whole.

    The HTTP library takes a head that broke off for one with fewer headers, the last of them cut.

    Args:
        ask: Makes the request through boto3.

    Returns:
        What boto3 made of the answer.

    Raises:
        CutBodyError: If the head broke off, as far as that can be seen.
    """
    try:
        found: Any = ask()
    except ValueError as error:  # a date that is cut, which boto3 does not read
        raise CutBodyError(f"its head ended early: {error}") from error
    partial = found["ResponseMetadata"]["HTTPStatusCode"] == 206
    in_range = not partial or _RANGE.fullmatch(found.get("ContentRange", ""))
    # Half an ETag would be taken for another version.
    whole_tag = found.get("ETag", '"').count('"') in (0, 2)
    if not ("ContentLength" in found and whole_tag and in_range):
        if "Body" in found:
            found["Body"].close()
        raise CutBodyError("its head ended early")
    answer: T = found
    return answer


def read_body(body: StreamingBody, into: memoryview) -> int:
    """Fills a buffer with a whole body.

    Args:
        body: Of the answer.
        into: As long as the answer said its body is.

    Returns:
        Bytes read: the buffer's size.

    Raises:
        CutBodyError: If fewer bytes came, or the connection broke or stalled.
    """
    from botocore.exceptions import (
        HTTPClientError,
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
    )

    done = 0
    while done < len(into):
        try:
            # The stubs say a file; it takes any buffer that can be written.
            count: int = body.readinto(into[done : done + STEP])  # type: ignore[arg-type]
        except (HTTPClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
            count = 0
        if not count:
            raise CutBodyError(f"{done} of {len(into)} bytes came")
        done += count
    return done
