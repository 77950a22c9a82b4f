"""The record of a merge that was published somewhere, or would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from lego_ray.output.manifest import marker_of
from lego_ray.records import Record

CARD = "README.md"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PublishRecord(Record):
    """What was copied, or would be.

    Attributes:
        merged: URI of the merge.
        merge_id: Its id, hex.
        name: Its name.
        dry_run: Whether nothing was written.
        to: URI of the copy.
        status: `published`, `already published` or, of a dry run, `would publish`.
        deleted: Paths of files that were deleted there.
        warnings: What the user should know.
        url: Page of the repository; this and the next six are of the Hub, and None elsewhere.
        private: Whether only its owners see it.
        creates: Whether the repository was made.
        branch: Its branch.
        replaces: Id of the merge that was there.
        commit: Hash of the commit.
        commit_message: What it says.
        files: Each with `path`, `bytes`, `sha256` and `action`: `add`, `replace` or `same`.
        bytes: Bytes that were written.
        model_card: Text of the model card, or None.
    """

    merged: str
    merge_id: str
    name: str
    dry_run: bool
    to: str
    status: str
    deleted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    url: str | None = None
    private: bool | None = None
    creates: bool | None = None
    branch: str | None = None
    replaces: str | None = None
    commit: str | None = None
    commit_message: str | None = None
    files: tuple[Mapping[str, Any], ...]
    bytes: int
    model_card: str | None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.status}, {self.bytes} bytes, {self.to}>"


def publish_record(
    merged: str,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    actions: Mapping[str, str],
    **told: Any,
) -> PublishRecord:
    """The record of a copy of a merge.

    Args:
        merged: URI of the merge.
        manifest: Its manifest.
        files: Its files, the manifest among them.
        actions: What became of each there: `add`, `replace` or `same`.
        **told: What else is known; see `PublishRecord`.
    """
    marker = marker_of(manifest)  # the file that is written last
    listed = tuple(
        {
            "path": key,
            "bytes": len(files[key]),
            "sha256": sha256(files[key]).hexdigest(),
            "action": actions[key],
        }
        for key in sorted(files, key=lambda k: (k == marker, k))
    )
    return PublishRecord(
        merged=merged,
        merge_id=manifest["merge_id"],
        name=manifest["name"],
        files=listed,
        bytes=sum(len(files[key]) for key, done in actions.items() if done != "same"),
        model_card=files[CARD].decode(errors="replace") if CARD in files else None,
        **told,
    )
