"""What came of publishing a merge somewhere, or would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Literal

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

    def record(self, files: Mapping[str, bytes], marker: str) -> dict[str, Any]:
        """All of it as JSON values, with the files and the model card.

        Args:
            files: Bytes by key.
            marker: The one that is written last.
        """
        told = asdict(self)
        actions = told.pop("actions")
        told["files"] = [
            {
                "path": key,
                "bytes": len(files[key]),
                "sha256": sha256(files[key]).hexdigest(),
                "action": actions[key],
            }
            for key in sorted(files, key=lambda k: (k == marker, k))
        ]
        told["bytes"] = sum(f["bytes"] for f in told["files"] if f["action"] != "same")
        told["deleted"], told["warnings"] = list(self.deleted), list(self.warnings)
        told["model_card"] = files[CARD].decode(errors="replace") if CARD in files else None
        return told
