"""Reads the body of an S3 answer into place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from botocore.response import StreamingBody

STEP = 1 << 20
"""Bytes taken from the socket at once: urllib3 copies each step, and 1 MiB stays in cache."""


class CutBodyError(Exception):
    """The connection ended before the body did."""


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
