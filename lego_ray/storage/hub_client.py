"""Calls the Hugging Face Hub through huggingface_hub, its session, its token and its retries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lego_ray.errors import StorageError
from lego_ray.storage.base import ByteRange, ObjectInfo
from lego_ray.storage.hub_errors import hub_errors
from lego_ray.storage.uri import check_plain
from lego_ray.storage.versions import changed

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RETRIES = 4
"""Tries after the first, 1, 2, 4 and 8 s apart: the Hub limits rates by the minute."""

READ_SECONDS = 60
BUSY = (408, 429, 500, 502, 503, 504)


def endpoint() -> str:
    """The Hub's address, read at each call, as huggingface_hub reads it at import only.

    Raises:
        UnsupportedUri: If it has credentials in it.
    """
    from huggingface_hub import constants

    return check_plain((os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/"))


def hub_api() -> HfApi:
    """huggingface_hub's calls, at that address."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="lego-ray")


@dataclass(frozen=True, slots=True)
class HubClient:
    """The three calls lego-ray makes about one model repository.

    Each raises `ObjectNotFound`, `AccessDenied` or `StoreUnavailable` with `where` in it.

    Attributes:
        repo_id: `owner/name`.
    """

    repo_id: str

    def commit(self, where: str, revision: str) -> str:
        """Resolves a branch, tag or commit; empty for the default branch.

        Args:
            where: The place, for errors.
            revision: Branch, tag or commit.

        Returns:
            The commit's full hash.

        Raises:
            StorageError: If the Hub names no commit.
        """
        with hub_errors(where):
            commit = hub_api().model_info(self.repo_id, revision=revision or None).sha
        if not commit:
            raise StorageError(where, "the Hub did not name a commit for it")
        return commit

    def files(self, where: str, commit: str, folder: str) -> list[ObjectInfo]:
        """Describes every file below a folder of a commit.

        Args:
            where: The place, for errors.
            commit: The commit's full hash.
            folder: Path in the repository; empty for all of it.

        Returns:
            Files in any order, their keys being paths in the repository.
        """
        from huggingface_hub.hf_api import RepoFile

        with hub_errors(where):
            entries = hub_api().list_repo_tree(
                self.repo_id, folder or None, recursive=True, revision=commit
            )
            return [
                ObjectInfo(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
                for entry in entries
                if isinstance(entry, RepoFile)
            ]

    def get(
        self,
        where: str,
        commit: str,
        path: str,
        part: ByteRange | None,
        version: str | None = None,
    ) -> bytes:
        """Fetches a file, or one range of it.

        Args:
            where: The place, for errors.
            commit: The commit's full hash.
            path: The file's path in the repository.
            part: First byte and one past the last; None for the whole file.
            version: The file's hash, as `files` gave it; None to take what is there.

        Returns:
            The bytes; fewer than asked for where the range ends past the end of the file.

        Raises:
            SourceChanged: If the Hub says that it answers from another commit, or with another hash.
            StorageError: If the range starts past the end of the file.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
            build_hf_headers,
            hf_raise_for_status,
            http_backoff,
        )

        url = hf_hub_url(self.repo_id, path, revision=commit, endpoint=endpoint())
        # Compressed bytes could not be cut by their position.
        headers = {**build_hf_headers(library_name="lego-ray"), "Accept-Encoding": "identity"}
        if part is not None:
            headers["Range"] = f"bytes={part.start}-{part.end - 1}"
        with hub_errors(where):
            answer = http_backoff(
                "GET",
                url,
                headers=headers,
                timeout=READ_SECONDS,
                max_retries=RETRIES,
                retry_on_status_codes=BUSY,
            )
            hf_raise_for_status(answer)
            data = bytes(answer.content)
        for each in (*answer.history, answer):
            _check(where, each.status_code, each.headers, commit, version)
        # A mirror that ignores ranges sends the whole file.
        whole = part is not None and answer.status_code == 200
        return data[part.start : part.end] if part is not None and whole else data


def _check(
    where: str, status: int, headers: Mapping[str, str], commit: str, version: str | None
) -> None:
    """Holds what the Hub says of a file it sends against what was asked for.

    Only its own answers name a commit; behind its redirects others answer, with ETags of their own,
    and the ETag of a redirect is that of the redirect.

    Raises:
        SourceChanged: If it says otherwise.
    """
    if version is None or "X-Repo-Commit" not in headers:
        return
    mark = headers.get("X-Linked-Etag") or (headers.get("ETag") if status < 300 else None) or ""
    mark = mark.removeprefix("W/").strip('"')
    another = len(mark) == len(version) and mark != version  # a hash of the same kind
    if headers["X-Repo-Commit"] != commit or another:
        raise changed(where)
