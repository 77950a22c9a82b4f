"""What huggingface_hub has downloaded of a repository: read where the Hub cannot be reached."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lego_ray.errors import ObjectNotFound, StorageError
from lego_ray.journal import note
from lego_ray.storage.base import ByteRange, ObjectInfo

_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a downloaded file is called: the hash that the Hub lists it with.
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_offline() -> bool:
    """Whether the user has said that the Hub is not to be asked."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@dataclass(frozen=True, slots=True)
class HubCache:
    """A repository in the local cache.

    It has the files that were ever downloaded at a commit, which may be some of the repository's.

    Attributes:
        repo_id: `owner/name`.
    """

    repo_id: str

    @property
    def _folder(self) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        name = repo_folder_name(repo_id=self.repo_id, repo_type="model")
        return Path(constants.HF_HUB_CACHE, name)

    def commit(self, revision: str) -> str:
        """The commit that a revision meant when it was downloaded; empty if it was not.

        Args:
            revision: Branch, tag or commit; empty for the default branch.
        """
        if _COMMIT.fullmatch(revision):
            found = revision
        else:
            ref = self._folder / "refs" / (revision or "main")
            inside = ref.resolve().is_relative_to((self._folder / "refs").resolve())
            found = ref.read_text().strip() if inside and ref.is_file() else ""
        return found if found and (self._folder / "snapshots" / found).is_dir() else ""

    def files(self, commit: str, folder: str) -> list[ObjectInfo] | None:
        """Describes the files of a commit that were downloaded; None if there are none.

        Args:
            commit: The commit's full hash.
            folder: Path in the repository; empty for all of it.
        """
        root = self._folder / "snapshots" / commit
        found = []
        for at, _, names in os.walk(root / folder):
            for name in names:
                path = Path(at, name)
                blob = path.resolve().name
                if path.is_file() and _HASH.fullmatch(blob):
                    key = path.relative_to(root).as_posix()
                    found.append(ObjectInfo(key, path.stat().st_size, blob))
        return found or None

    def get(self, where: str, commit: str, path: str, part: ByteRange | None) -> bytes | None:
        """Reads a file, or a range of it, as `HubClient.get` does; None if it was not downloaded.

        Args:
            where: The place, for errors.
            commit: The commit's full hash.
            path: The file's path in the repository.
            part: First byte and one past the last; None for the whole file.

        Raises:
            StorageError: If the range begins past the end of the file.
        """
        file = self._folder / "snapshots" / commit / path
        try:
            with file.open("rb") as opened:
                if part is None:
                    return opened.read()
                opened.seek(part.start)
                data = opened.read(part.size)
        except OSError:
            return None
        if part.size and not data:
            raise StorageError(
                where,
                "bytes past the end of the file were asked for",
                "The file is truncated, or its header belongs to another file.",
            )
        return data

    def say(self, where: str, commit: str, why: str) -> None:
        """Says that the cache is read in place of the Hub.

        Args:
            where: The place.
            commit: The commit that is read.
            why: Why, in words.
        """
        said = (
            f"{why}, so the local cache is read, at commit {commit[:8]}; what was never downloaded "
            "of it is passed over"
        )
        note("cache", "", logging.WARNING, where=where, reason=said)


def not_cached(where: str) -> ObjectNotFound:
    """The error of a repository that is neither reached nor in the cache.

    Args:
        where: The place.
    """
    return ObjectNotFound(
        where,
        "HF_HUB_OFFLINE is set, and this is not in the local cache",
        "Unset it, or run `hf download OWNER/NAME` where the Hub can be reached.",
    )
