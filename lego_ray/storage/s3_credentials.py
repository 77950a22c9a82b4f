"""Credentials that are looked for again after a refusal, since they can be replaced under a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.credentials import (
    Credentials,
    ReadOnlyCredentials,
    RefreshableCredentials,
    create_credential_resolver,
)

if TYPE_CHECKING:
    import botocore.session
    from mypy_boto3_s3 import S3Client

# Codes of keys that are no longer valid; a refusal of another kind can also be of the bucket's policy.
_OVER = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch"),
    }
)
_STAMP = "lego_ray_credentials"


class LiveCredentials(Credentials):
    """The credentials that botocore's chain finds, and those that it finds later.

    botocore keeps keys of the environment and of shared files for as long as the process lives. All
    clients of a process hold this one object, so a key found later is used by all of them.

    Attributes:
        generation: How often they were replaced.
    """

    def __init__(
        self, find: Callable[[], Credentials | None], found: Credentials, files: Sequence[Path]
    ) -> None:
        """Holds what was found.

        Args:
            find: Looks for credentials as if the process had just started.
            found: What it gave the first time.
            files: The shared files, any of which may have been looked at.
        """
        self._find = find
        self._found = found
        self._files = files
        self._state = _state(files)
        self._lock = threading.Lock()
        self.generation = 0

    def __getattr__(self, name: str) -> Any:
        # The base class sets its attributes when it is made, which is left out here.
        return getattr(self.__dict__["_found"], name)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The keys of this moment, which belong together."""
        return self._found.get_frozen_credentials()

    def present(self) -> ReadOnlyCredentials:
        """The keys of this moment, looked for again if a shared file was written since.

        For clients that are given keys, and so cannot look for others after a refusal.
        """
        state = _state(self._files)
        if state != self._state:
            self._state = state
            self.look_again(self.generation)
        return self.get_frozen_credentials()

    @property
    def renew_themselves(self) -> bool:
        """Whether they expire and are renewed by botocore, such as those of a role."""
        return isinstance(self._found, RefreshableCredentials)

    def look_again(self, seen: int) -> bool:
        """Looks for credentials again, unless that was done since.

        Args:
            seen: The generation that was refused.

        Returns:
            Whether they are others than those of that generation.
        """
        with self._lock:
            if self.generation != seen:
                return True
            found = self._find()
            if found is None:
                return False
            if found.get_frozen_credentials() == self._found.get_frozen_credentials():
                return False
            self._found = found
            self.generation += 1
            return True


class LiveResolver:
    """botocore's chain of credentials, of which the outcome is live."""

    def __init__(self, new_session: Callable[[], botocore.session.Session]) -> None:
        """Describes where to look.

        Args:
            new_session: Makes a session that has looked for nothing yet.
        """
        self._new_session = new_session

    def load_credentials(self) -> LiveCredentials | None:
        """What a session asks its resolver for."""

        def find() -> Credentials | None:
            found: Credentials | None = create_credential_resolver(
                self._new_session()
            ).load_credentials()
            return found

        session, found = self._new_session(), find()
        names = ("credentials_file", "config_file")
        files = [Path(session.get_config_variable(name)).expanduser() for name in names]
        return None if found is None else LiveCredentials(find, found, files)


def _state(files: Sequence[Path]) -> list[tuple[int, int]]:
    """What changes if a file is written; of files that are not there, nothing."""
    found = []
    for file in files:
        with suppress(OSError):
            about = file.stat()
            found.append((about.st_mtime_ns, about.st_size))
    return found


def retry_with_new_credentials(client: S3Client, credentials: LiveCredentials) -> None:
    """Makes a client sign a refused request again if the credentials were replaced meanwhile.

    Args:
        client: The client.
        credentials: Those that it signs with.
    """

    def stamp(request: Any, **_: Any) -> None:
        request.context[_STAMP] = credentials.generation

    def after(response: Any, request_dict: Any, **_: Any) -> int | None:
        context = request_dict["context"]
        # Roles have other keys at each look, so one look is enough for a request.
        if response is None or context.get(f"{_STAMP}_renewed"):
            return None
        http, parsed = response
        code = parsed.get("Error", {}).get("Code", "") if parsed else ""
        if code not in _OVER and (
            http.status_code not in (401, 403) or credentials.renew_themselves
        ):
            return None
        if not credentials.look_again(context.get(_STAMP, credentials.generation)):
            return None
        context[f"{_STAMP}_renewed"] = True
        return 0

    # The stubs know of no handler that returns anything; a number is how long to wait.
    events: Any = client.meta.events
    events.register("before-sign.s3", stamp)
    events.register_first("needs-retry.s3", after)
