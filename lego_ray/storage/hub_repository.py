"""A model repository on the Hub as something to write to: made, and changed one commit at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lego_ray.errors import AlreadyExists, InvalidOption, ObjectNotFound
from lego_ray.storage.base import ObjectInfo
from lego_ray.storage.hub_client import HubClient, endpoint, hub_api
from lego_ray.storage.hub_errors import hub_errors, no_token
from lego_ray.storage.hub_patience import patiently
from lego_ray.storage.keys import check_key
from lego_ray.storage.places import HubPlace

DEFAULT_BRANCH = "main"
_NO_BRANCH = re.compile(r"[0-9a-f]{40}|refs/.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """What a repository holds at its branch.

    Attributes:
        private: Whether only its owners see it.
        head: The commit the branch is at; of a branch that is not there, the one it would start at.
        has_branch: Whether the branch is there.
        of_its_own: Whether the branch is there and at another commit than the default branch, or is
            the default branch.
        files: Every file below the folder, by key.
    """

    private: bool
    head: str
    has_branch: bool = True
    of_its_own: bool = True
    files: Mapping[str, ObjectInfo] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A branch of a model repository, or a folder on it, to be written to.

    Endpoint and token are huggingface_hub's own. A request that the Hub is too busy for is made
    again, with longer and longer waits, or after the wait the Hub asks for.

    Attributes:
        at: Repository, branch (empty for the default one) and folder.
    """

    at: HubPlace

    @property
    def uri(self) -> str:
        """`hf://owner/name[@branch][/folder]`."""
        return str(self.at)

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"{endpoint()}/{self.at.repo_id}"

    @property
    def branch(self) -> str:
        """The branch written to."""
        return self.at.revision or DEFAULT_BRANCH

    def check(self) -> None:
        """Refuses revisions that cannot be written to, without asking the Hub.

        Raises:
            InvalidOption: If the revision is a commit or another ref than a branch.
        """
        if _NO_BRANCH.fullmatch(self.branch):
            raise InvalidOption(
                self.uri,
                f"{self.branch} is not a branch, and only branches can be written to",
                "Name a branch; it is created if missing.",
            )

    def check_token(self) -> None:
        """Makes sure that there is a token to write with; the Hub says whether it may.

        Raises:
            AccessDenied: If there is none.
        """
        if not has_token():
            raise no_token(self.uri)

    def state(self) -> RepositoryState | None:
        """Looks what is there, by requests that only read.

        Returns:
            None if there is no repository that the token sees.

        Raises:
            InvalidOption: If the branch's name is that of a tag.
            AccessDenied: If the token is not one, or may not read the repository.
            StoreUnavailable: If the Hub cannot be reached.
        """
        with hub_errors(self.uri, writing=True):
            from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

            try:
                info = patiently(lambda: hub_api().model_info(self.at.repo_id))
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
            refs = patiently(lambda: hub_api().list_repo_refs(self.at.repo_id))
        heads = {ref.name: ref.target_commit for ref in refs.branches}
        if self.branch not in heads and self.branch in {ref.name for ref in refs.tags}:
            raise InvalidOption(
                self.uri,
                f"{self.branch} is a tag, and only branches can be written to",
                "Name a branch; it is created if missing.",
            )
        start = heads.get(DEFAULT_BRANCH) or info.sha or ""
        head = heads.get(self.branch, start)
        return RepositoryState(
            private=bool(info.private),
            head=head,
            has_branch=self.branch in heads,
            of_its_own=self.branch == DEFAULT_BRANCH or head != start,
            files=self._files(head),
        )

    def _files(self, commit: str) -> dict[str, ObjectInfo]:
        below = f"{self.at.subfolder}/" if self.at.subfolder else ""
        try:
            found = HubClient(self.at.repo_id).files(self.uri, commit, self.at.subfolder)
        except ObjectNotFound:  # no such folder yet
            return {}
        keys = {info.key.removeprefix(below): info for info in found}
        return {key: ObjectInfo(key, info.size, info.version) for key, info in keys.items()}

    def create(self, *, private: bool) -> bool:
        """Makes the repository.

        Returns:
            False if there is one by now.

        Raises:
            AccessDenied: If the token may not.
            StoreUnavailable: If the Hub cannot be reached.
        """
        try:
            with hub_errors(self.uri, writing=True):
                patiently(
                    lambda: hub_api().create_repo(self.at.repo_id, private=private), writing=True
                )
        except AlreadyExists:
            return False
        return True

    def create_branch(self, start: str) -> None:
        """Makes the branch, at a commit; one that is there is no error."""
        with hub_errors(self.uri, writing=True):
            patiently(
                lambda: hub_api().create_branch(
                    self.at.repo_id, branch=self.branch, revision=start, exist_ok=True
                ),
                writing=True,
            )

    def commit(
        self,
        files: Mapping[str, bytes],
        delete: Sequence[str] = (),
        *,
        parent: str,
        summary: str,
        description: str = "",
    ) -> str:
        """Writes and deletes files in one commit: readers see all of it or nothing.

        Args:
            files: Bytes by key.
            delete: Keys of files that are there and shall not be.
            parent: The commit that the branch must still be at.
            summary: First line of the commit's message.
            description: The rest of it.

        Returns:
            The commit's hash.

        Raises:
            AlreadyExists: If the branch is at another commit by now.
            AccessDenied: If the token may not write there.
            StoreUnavailable: If the Hub cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        below = f"{self.at.subfolder}/" if self.at.subfolder else ""
        for key in (*files, *delete):
            check_key(self.uri, key)

        def once() -> str:
            # Made again for each try, as it marks them while it works.
            added = [CommitOperationAdd(below + key, data) for key, data in files.items()]
            gone = [CommitOperationDelete(below + key, is_folder=False) for key in delete]
            made = hub_api().create_commit(
                self.at.repo_id,
                [*added, *gone],
                commit_message=summary,
                commit_description=description,
                revision=self.branch,
                parent_commit=parent or None,
            )
            return made.oid

        with hub_errors(self.uri, writing=True):
            return patiently(once, writing=True)


def has_token() -> bool:
    """Whether huggingface_hub finds a token that it would send by itself."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
        build_hf_headers,
    )

    return "authorization" in build_hf_headers()
