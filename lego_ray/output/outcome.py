"""What came of publishing a merge somewhere, or would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done in one place.

    Attributes:
        to: Its URI.
        status: `published`, `already published`, or `would publish`.
        actions: What became of each file: `add`, `replace` or `same`.
        deleted: Files deleted.
        warnings: What a user should know.
        url: Page of the repository; this and the rest are of the Hub, and None elsewhere.
        private: Whether only its owners see it.
        creates: Whether the repository was made.
        branch: The branch.
        replaces: Id of the merge that was there.
        commit: Hash of the commit that holds it.
        commit_message: What it says.
    """

    to: str
    status: Literal["published", "already published", "would publish"]
    actions: Mapping[str, str]
    deleted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    url: str | None = None
    private: bool | None = None
    creates: bool | None = None
    branch: str | None = None
    replaces: str | None = None
    commit: str | None = None
    commit_message: str | None = None
