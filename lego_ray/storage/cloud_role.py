"""Whether credentials for Google Cloud can be found at all, before a client looks for them for long.

Where nothing else is given, a client asks the server that knows the role of a machine. Outside Google's
machines nothing answers there, and the client tries for 20 s.
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path

from lego_ray.errors import AccessDenied
from lego_ray.storage.cloud_errors import NO_CREDENTIALS

# The server of a machine's role, by the address that the client asks.
ROLE_SERVER = ("169.254.169.254", 80)
# On such a machine it answers within milliseconds.
_SECONDS = 2.0
_VARIABLES = (
    *("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BEARER_TOKEN"),
)
_LOGIN = Path(".config/gcloud/application_default_credentials.json")


def check_google_credentials(where: str) -> None:
    """Passes where credentials for Google Cloud are given, or a server may give some.

    Args:
        where: The place they are for, for the error.

    Raises:
        AccessDenied: If there are none.
    """
    if any(os.environ.get(name) for name in _VARIABLES):
        return
    if (Path(os.environ.get("HOME", "/nonexistent")) / _LOGIN).is_file():
        return
    if any(name.lower() in ("http_proxy", "all_proxy") for name in os.environ):
        return  # what a proxy reaches is not known here
    if not _answers(*ROLE_SERVER, os.getpid()):
        raise AccessDenied(where, "no credentials are found", NO_CREDENTIALS["gs"])


@lru_cache(maxsize=8)
def _answers(host: str, port: int, pid: int) -> bool:
    """Whether a server takes a connection, asked once a process."""
    try:
        with socket.create_connection((host, port), timeout=_SECONDS):
            return True
    except OSError:
        return False
