"""A local Ray for one driver: on loopback alone, with a token of its own, and with few processes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What Ray reads about tokens, from release 2.52 on.
MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
DEFAULT_TOKEN_PATH = "~/.ray/auth_token"
# Methods of a Ray node that start processes which one driver does not use. Each takes a second of CPU to
# start. Workers' logs are not sent to the driver, no node can be added, and nobody asks a dashboard.
_UNUSED = ("start_log_monitor", "start_monitor", "start_api_server")


@contextmanager
def alone() -> Iterator[None]:
    """A Ray started within the block listens on loopback alone, and asks for a token where it can.

    Its log monitor, autoscaler and dashboard are not started.

    The token is made for that Ray, and kept by its processes and this one; RAY_AUTH_TOKEN gives
    another, and RAY_AUTH_MODE=disabled means none. What the environment says is put back after the
    block, so that it holds for no other Ray; `forget` is for when this one is down.
    """
    from ray._private import ray_constants

    before = {name: os.environ.get(name) for name in (MODE, TOKEN)}
    several_nodes = ray_constants.ENABLE_RAY_CLUSTER
    # As on macOS. Ray takes a loopback address that is given for one that others must not see, and
    # puts the machine's own in its place.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        if (os.environ.get(MODE) or "token").lower() == "token":
            os.environ[MODE] = "token"
            os.environ[TOKEN] = os.environ.get(TOKEN) or secrets.token_hex(32)
            reread()
        with few_processes():
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several_nodes
        put_back(before)


@contextmanager
def few_processes() -> Iterator[None]:
    """Nodes that start within the block do so without the processes of `_UNUSED`.

    A release of Ray without these methods starts all its processes.
    """
    from ray._private.node import Node

    kept = {name: getattr(Node, name) for name in _UNUSED if hasattr(Node, name)}
    for name in kept:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in kept.items():
            setattr(Node, name, start)


def _start_nothing(node: object, **_: object) -> None:
    """In place of a process that is not needed."""


def put_back(before: dict[str, str | None]) -> None:
    """Gives variables of the environment the values they had; None for one that was not set."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def forget() -> None:
    """Makes this process use the token that its environment names, once no Ray is connected."""
    needed = os.environ.get(MODE, "").lower() == "token"
    places = (os.environ.get(TOKEN_PATH, ""), DEFAULT_TOKEN_PATH)
    if needed and not os.environ.get(TOKEN) and not any(map(_is_file, places)):
        # A thread of Ray's that is still on its way down would end the process for want of a token.
        return
    reread()


def reread() -> None:
    """Makes this process read the environment about tokens again; Ray itself does so once."""
    try:
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
    except ImportError:  # a Ray from before there were tokens
        return
    Config.initialize("")  # first: without a token to find, token mode ends the process
    AuthenticationTokenLoader.instance().reset_cache()


def _is_file(path: str) -> bool:
    return bool(path) and Path(path).expanduser().is_file()
