"""Where the Hub keeps large files: its links to them are used again, so that it need not be asked.

To each read of a large file the Hub only answers where that file is kept: by a link that is valid for
about an hour. It limits how many such requests it takes, and a scan and a merge read several ranges of
each adapter. A link leads to the content that a file has at a commit, so it cannot come to mean another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# Much shorter than the Hub's links hold.
_SECONDS = 600
_MOST = 10_000
# How the servers behind links answer to one that is not valid any more.
_EXPIRED = (400, 401, 403, 404, 410)

# By address and hash of the file: the link, and when it was given, by `time.monotonic`.
_LINKS: dict[tuple[str, str], tuple[str, float]] = {}


def ask_by_link(url: str, version: str | None, ask: Callable[[str], Any]) -> Any | None:
    """Asks for a file by the link that the Hub gave for it last.

    Args:
        url: The file's address on the Hub, at a commit.
        version: The file's hash, as the Hub lists it; None where it is not known.
        ask: Asks for a link, without the user's token.

    Returns:
        The answer; None if the Hub is to be asked.
    """
    from huggingface_hub.errors import HfHubHTTPError

    link, given = _LINKS.get((url, version or ""), ("", 0.0))
    if not link or time.monotonic() - given > _SECONDS:
        return None
    try:
        return ask(link)
    except HfHubHTTPError as error:
        if error.response.status_code not in _EXPIRED:
            raise
        _LINKS.pop((url, version or ""), None)
        return None


def keep_link(url: str, version: str | None, answer: Any) -> None:
    """Keeps the link that the Hub gave for a file, if it gave one.

    Args:
        url: The file's address on the Hub, at a commit.
        version: The file's hash, which the answer was held against.
        answer: The answer, after the redirects that led to it.
    """
    if version is None or not answer.history:
        return
    # The Hub's own redirects, such as those of a renamed repository, need the token.
    if "X-Linked-Etag" not in answer.history[-1].headers:
        return
    while len(_LINKS) >= _MOST:
        _LINKS.pop(next(iter(_LINKS)), None)
    _LINKS[url, version] = (str(answer.url), time.monotonic())
