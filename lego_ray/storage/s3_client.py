"""boto3 clients, one per process and configuration."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from lego_ray.storage.uri import check_plain

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 5
"""Tries of one request. Standard mode waits up to 1, 2, 4, 8 s between them, half that on average,
so a server that refuses every connection is given up after 15 s at most."""

CONNECT_SECONDS = 5
READ_SECONDS = 60

CONNECTIONS = 32
"""Kept open per client: the fetch threads of four stores."""

# boto3's sessions, unlike its clients, must not be used by two threads at once.
_MAKING = threading.Lock()


def s3_client(endpoint_url: str | None, attempts: int) -> S3Client:
    """The client for this process and its present environment.

    A client takes about 0.1 s to make and holds the connections, so all stores of a process share
    one; boto3's clients can be shared by threads and not by forked processes.

    Args:
        endpoint_url: Server to use instead of the one the environment or shared config names.
        attempts: Tries of one request, the first included.

    Raises:
        botocore.exceptions.BotoCoreError: If the configuration contradicts itself.
        UnsupportedUri: If the server's address has credentials in it.
    """
    with _MAKING:
        return _client(endpoint_url, attempts, os.getpid(), _environment())


def aws_session() -> boto3.session.Session:
    """The boto3 session for this process and its present environment."""
    with _MAKING:
        return _session(os.getpid(), _environment())


def _environment() -> tuple[tuple[str, str], ...]:
    """What boto3 reads of the environment: a change must not find a client made before it."""
    return tuple(
        sorted(
            (name, value)
            for name, value in os.environ.items()
            if name.startswith(("AWS_", "HOME")) or name.lower().endswith("_proxy")
        )
    )


@lru_cache(maxsize=8)
def _session(pid: int, environment: tuple[tuple[str, str], ...]) -> boto3.session.Session:
    import boto3

    return boto3.session.Session()


@lru_cache(maxsize=8)
def _client(
    endpoint_url: str | None, attempts: int, pid: int, environment: tuple[tuple[str, str], ...]
) -> S3Client:
    from botocore.config import Config

    client = _session(pid, environment).client(
        "s3",
        endpoint_url=endpoint_url,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            user_agent_extra="lego-ray",
        ),
    )
    check_plain(client.meta.endpoint_url)
    return client
