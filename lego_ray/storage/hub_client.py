"""Calls the Hugging Face Hub through huggingface_hub, its session, its token and its cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lego_ray.errors import StorageError, StoreUnavailable
from lego_ray.storage.base import ByteRange, ObjectInfo
from lego_ray.storage.hub_cache import HubCache, is_offline, not_cached
from lego_ray.storage.hub_errors import hub_errors
from lego_ray.storage.hub_links import ask_by_link, keep_link
from lego_ray.storage.hub_patience import BUSY, RETRIES, TOO_MANY, patiently
from lego_ray.storage.uri import check_plain
from lego_ray.storage.versions import changed

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

READ_SECONDS = 60
# From so many files on, the Hub's answer about a repository may lack some of them.
MOST_IN_INFO = 10_000

# Repositories that were not reached: they are read from the cache from then on, without waiting again.
_UNREACHED: set[str] = set()


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


# Characters of the hash that marks a large file.
_SHA256 = 64


@dataclass(frozen=True, slots=True)
class HubClient:
    """The three calls lego-ray makes about one model repository.

    Each raises `ObjectNotFound`, `AccessDenied` or `StoreUnavailable` with `where` in it. Where the Hub
    is down, or HF_HUB_OFFLINE is set, each reads the local cache, if the repository is in it.

    Attributes:
        repo_id: `owner/name`.
    """

    repo_id: str

    def commit(self, where: str, revision: str) -> tuple[str, list[ObjectInfo] | None]:
        """Resolves a branch, tag or commit; empty for the default branch. One call.

        Args:
            where: The place, for errors.
            revision: Branch, tag or commit.

        Returns:
            The commit's full hash; and every file of it, as `files` has them, if the answer has all.

        Raises:
            StorageError: If the Hub names no commit.
        """
        cache = HubCache(self.repo_id)
        if self._is_cached() and (cached := cache.commit(revision)):
            if is_offline():
                cache.say(where, cached, "HF_HUB_OFFLINE is set")
            return cached, None
        if is_offline():
            raise not_cached(where)
        try:
            with hub_errors(where):
                info = patiently(
                    lambda: hub_api().model_info(
                        self.repo_id, revision=revision or None, files_metadata=True
                    ),
                    where=where,
                )
        except StoreUnavailable as error:
            cached = cache.commit(revision)
            if not cached:
                raise
            self._unreached(where, cached, error)
            return cached, None
        if not info.sha:
            raise StorageError(where, "the Hub did not name a commit for it")
        return info.sha, _described(info)

    def _is_cached(self) -> bool:
        """Whether the cache is read, and not the Hub."""
        return is_offline() or f"{endpoint()}/{self.repo_id}" in _UNREACHED

    def _unreached(self, where: str, commit: str, error: StoreUnavailable) -> None:
        """Turns to the cache for the rest of this process."""
        HubCache(self.repo_id).say(where, commit, error.problem)
        _UNREACHED.add(f"{endpoint()}/{self.repo_id}")

    def files(self, where: str, commit: str, folder: str) -> list[ObjectInfo]:
        """Describes every file below a folder of a commit.

        Args:
            where: The place, for errors.
            commit: The commit's full hash.
            folder: Path in the repository; empty for all of it.

        Returns:
            Files in any order, their keys being paths in the repository.
        """
        cached = HubCache(self.repo_id).files(commit, folder)
        if self._is_cached():
            if cached is None:
                raise not_cached(where)
            return cached
        try:
            with hub_errors(where):
                return self._listed(where, commit, folder)
        except StoreUnavailable as error:
            if cached is None:
                raise
            self._unreached(where, commit, error)
            return cached

    def _listed(self, where: str, commit: str, folder: str) -> list[ObjectInfo]:
        below = f"/{quote(folder)}" if folder else ""
        url = f"{endpoint()}/api/models/{self.repo_id}/tree/{commit}{below}?recursive=True"
        found = []
        while url:  # a page after the other
            answer = _ask(where, url)
            for entry in answer.json():
                if entry["type"] == "file":
                    version = (entry.get("lfs") or entry)["oid"]
                    found.append(ObjectInfo(entry["path"], entry["size"], version))
            url = answer.links.get("next", {}).get("url", "")
        return found

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
            SourceChanged: If the Hub says that it answers from another commit, or with another hash; or
                says nothing of it, and a whole file is not of the hash.
            StorageError: If the range starts past the end of the file.
        """
        if self._is_cached():
            cached = HubCache(self.repo_id).get(where, commit, path, part)
            if cached is not None:
                return cached
            if is_offline():
                raise not_cached(where)
        try:
            return self._fetched(where, commit, path, part, version)
        except StoreUnavailable as error:
            cached = HubCache(self.repo_id).get(where, commit, path, part)
            if cached is None:
                raise
            self._unreached(where, commit, error)
            return cached

    def _fetched(
        self, where: str, commit: str, path: str, part: ByteRange | None, version: str | None
    ) -> bytes:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.repo_id, path, revision=commit, endpoint=endpoint())
        # Compressed bytes could not be cut by their position.
        headers = {"Accept-Encoding": "identity"}
        if part is not None:
            headers["Range"] = f"bytes={part.start}-{part.end - 1}"
        with hub_errors(where):
            answer = ask_by_link(url, version, lambda link: _ask(where, link, headers, token=False))
            is_named = False
            if answer is None:
                answer = _ask(where, url, headers)
                for each in (*answer.history, answer):
                    named = _named(where, each.status_code, each.headers, commit, version)
                    is_named = is_named or named
                keep_link(url, version, answer)
            data = bytes(answer.content)
        # What the Hub names is enough of a small file: a mirror's marks need not be git's hashes.
        is_sure = is_named and version is not None and len(version) != _SHA256
        if part is None and version is not None and not is_sure:
            sent = ObjectInfo(path, len(data), version)
            if not same_content(sent, data):
                raise changed(where)
        # A mirror that ignores ranges sends the whole file.
        whole = part is not None and answer.status_code == 200
        return data[part.start : part.end] if part is not None and whole else data


def same_content(info: ObjectInfo, data: bytes) -> bool:
    """Whether a file on the Hub has these bytes, by its size and hash alone.

    Args:
        info: The file there.
        data: The bytes here.
    """
    if info.size != len(data):
        return False
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return info.version in (hashlib.sha256(data).hexdigest(), blob)


def _described(info: ModelInfo) -> list[ObjectInfo] | None:
    """Every file that the Hub's answer about a repository lists; None if it may not have them all."""
    found = []
    for each in info.siblings or ():
        version = each.lfs.sha256 if each.lfs else each.blob_id
        size = each.lfs.size if each.lfs else each.size
        if version is None or size is None:
            return None
        found.append(ObjectInfo(each.rfilename, size, version))
    return found if 0 < len(found) < MOST_IN_INFO else None


def _ask(
    where: str, url: str, headers: Mapping[str, str] = MappingProxyType({}), *, token: bool = True
) -> Any:
    """Asks the Hub for something to read, and again while it is too busy.

    huggingface_hub's own calls wait for as long as the Hub asks, however long that is.

    Args:
        where: The place, named in the line about a wait.
        url: What to ask for.
        headers: Beside those that every request has.
        token: Whether to send the user's token, if there is one.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
        build_hf_headers,
        hf_raise_for_status,
        http_backoff,
    )

    def once() -> Any:
        answer = http_backoff(
            "GET",
            url,
            headers={
                **build_hf_headers(library_name="lego-ray", token=None if token else False),
                **headers,
            },
            timeout=READ_SECONDS,
            max_retries=RETRIES,
            retry_on_status_codes=tuple(set(BUSY) - set(TOO_MANY)),
        )
        hf_raise_for_status(answer)
        return answer

    return patiently(once, where=where, busy=TOO_MANY)


def _named(
    where: str, status: int, headers: Mapping[str, str], commit: str, version: str | None
) -> bool:
    """Whether the Hub says of a file it sends that it is what was asked for.

    Only its own answers name a commit; behind its redirects others answer, with ETags of their own,
    and the ETag of a redirect is that of the redirect.

    Raises:
        SourceChanged: If it says otherwise.
    """
    if version is None or "X-Repo-Commit" not in headers:
        return False
    mark = headers.get("X-Linked-Etag") or (headers.get("ETag") if status < 300 else None) or ""
    mark = mark.removeprefix("W/").strip('"')
    another = len(mark) == len(version) and mark != version  # a hash of the same kind
    if headers["X-Repo-Commit"] != commit or another:
        raise changed(where)
    return mark == version
