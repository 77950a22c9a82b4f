"""Whether a Ray that is to be joined is there and lets this process in: asked once.

Ray itself tries an address at which nothing listens for minutes, and a wrong token for half a minute.
"""

from __future__ import annotations

import os
import socket

from lego_ray.errors import BadInput
from lego_ray.runners.ray.alone import DEFAULT_TOKEN_PATH, MODE, TOKEN, TOKEN_PATH, reread

CONNECT_SECONDS = 10.0


def knock(address: str) -> None:
    """Passes if a Ray may be joined at an address.

    Args:
        address: `auto`, or what `ray.init` takes for an address.

    Raises:
        BadInput: If it asks for a token, and this process has none or another.
        Exception: If nothing listens there, or what does is not a Ray; OSError, OverflowError,
            ValueError or an error of Ray's.
    """
    if "://" in (os.environ.get("RAY_ADDRESS", "") if address == "auto" else address):
        _listens(address.rpartition("://")[2])
        return  # Ray's client, which says at once what is wrong
    from ray._private.services import canonicalize_bootstrap_address

    place = canonicalize_bootstrap_address(address)
    if place is None:  # `auto`, where there is none
        return
    _listens(place)
    if not _lets_in(place) and not (_with_token_found(address) and _lets_in(place)):
        raise refused(address)


def refused(address: str) -> BadInput:
    """What to tell of a Ray that asks for a token and was not given its own."""
    if _mode() != "token":
        problem = f"this Ray cluster needs a token, and {MODE} is not `token` here"
    elif _has_token():
        problem = "this Ray cluster needs a token, and the one given here does not match"
    elif os.environ.get(TOKEN_PATH):
        problem = f"no token can be read from the file that {TOKEN_PATH} names"
    else:
        problem = f"{MODE} is `token`, but no token is given"
    return BadInput(
        f"--address {address}",
        problem,
        f"Set {MODE}=token, and {TOKEN} to the cluster's token (or {TOKEN_PATH} to a file that "
        f"holds it, or put it in {DEFAULT_TOKEN_PATH}).",
    )


def is_refusal(error: BaseException) -> bool:
    """Whether an error is Ray's about a token."""
    try:
        from ray.exceptions import AuthenticationError
    except ImportError:  # a Ray from before there were tokens
        return False
    return isinstance(error, AuthenticationError)


def _listens(place: str) -> None:
    host, _, port = place.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _lets_in(place: str) -> bool:
    """Whether a cluster takes the token of this process, or asks for none."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    if _mode() == "token" and not _has_token():  # asked all the same, Ray would end this process
        return False
    try:
        GcsClient(address=place)
    except Exception as error:
        if is_refusal(error):
            return False
        raise
    return True


def _with_token_found(address: str) -> bool:
    """Uses a token that is there though nothing says to; as Ray does, for `auto` alone."""
    if address != "auto" or _mode() or not _has_token():
        return False
    os.environ[MODE] = "token"
    reread()
    return True


def _mode() -> str:
    return os.environ.get(MODE, "").lower()


def _has_token() -> bool:
    """Whether Ray finds a token; true for a Ray from before there were any, which needs none."""
    try:
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    except ImportError:
        return True
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except Exception as error:
        if is_refusal(error):  # the file that is named cannot be read, or is empty
            return False
        raise
