"""boto3 clients, one per process and configuration."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from lego_ray.storage.buckets import NO_SETTINGS, BucketSettings
from lego_ray.storage.s3_settings import (
    CHECKSUM_SETTINGS,
    S3Settings,
    ca_bundle,
    check_keys,
    check_way,
    chosen_checksums,
    is_aws,
    settings_of,
)
from lego_ray.storage.uri import check_plain

if TYPE_CHECKING:
    import boto3
    import botocore.session
    from mypy_boto3_s3 import S3Client

    from lego_ray.storage.s3_credentials import LiveCredentials

ATTEMPTS = 5
"""Tries of one request. Standard mode waits up to 1, 2, 4, 8 s between them, half that on average,
so a server that refuses every connection is given up after 15 s at most."""

CONNECT_SECONDS = 5
READ_SECONDS = 60

CONNECTIONS = 64
"""Kept open per client: the fetch threads of four stores."""

# Variables, and the starts of names of variables, that boto3 reads.
_READ = ("AWS_", "HOME", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

# boto3's sessions, unlike its clients, must not be used by two threads at once.
_MAKING = threading.Lock()

Environment = tuple[tuple[str, str], ...]


class Reach(NamedTuple):
    """How a server is reached.

    Attributes:
        settings: What all clients have in common.
        credentials: The keys; None if boto3 finds none.
    """

    settings: S3Settings
    credentials: LiveCredentials | None


class _Session(NamedTuple):
    boto3: boto3.session.Session
    core: botocore.session.Session


def s3_client(
    endpoint_url: str | None, attempts: int, bucket: BucketSettings = NO_SETTINGS
) -> S3Client:
    """The client for this process and its present environment.

    A client takes about 0.1 s to make and holds the connections, so all stores of a process share
    one; boto3's clients can be shared by threads and not by forked processes.

    Args:
        endpoint_url: Server to use instead of the one the environment or shared config names.
        attempts: Tries of one request, the first included.
        bucket: Settings of the bucket that it is for.

    Raises:
        botocore.exceptions.BotoCoreError: If the configuration contradicts itself.
        InvalidOption: If the file of certificates cannot be used.
        UnsupportedUri: If the server's address has credentials in it.
    """
    with _MAKING:
        return _client(endpoint_url, attempts, bucket, os.getpid(), _environment())


def s3_reach(bucket: BucketSettings = NO_SETTINGS) -> Reach:
    """How this process reaches S3 in its present environment: for clients other than boto3's.

    Args:
        bucket: Settings of the bucket that it is for.

    Raises:
        botocore.exceptions.BotoCoreError: If the configuration contradicts itself.
        InvalidOption: If the file of certificates cannot be used.
        UnsupportedUri: If the server's address has credentials in it.
    """
    with _MAKING:
        pid, environment = os.getpid(), _environment()
        session = _session(bucket.profile, pid, environment)
        client = _client(None, ATTEMPTS, bucket, pid, environment)
        # The session's own resolver makes no other kind.
        found: Any = session.core.get_credentials()
        return Reach(settings_of(client, session.core), found)


def _environment() -> Environment:
    """What boto3 reads of the environment: a change must not find a client made before it."""
    return tuple(
        sorted(
            (name, value)
            for name, value in os.environ.items()
            if name.startswith(_READ) or name.lower().endswith("_proxy")
        )
    )


@lru_cache(maxsize=8)
def _session(profile: str | None, pid: int, environment: Environment) -> _Session:
    import boto3
    import botocore.session

    from lego_ray.storage.s3_credentials import LiveResolver

    def new() -> botocore.session.Session:
        # With a profile that is given, botocore takes no keys from the environment.
        return botocore.session.Session(profile=profile)

    core = new()
    core.register_component("credential_provider", LiveResolver(new))
    return _Session(boto3.session.Session(botocore_session=core), core)


@lru_cache(maxsize=8)
def _client(
    endpoint_url: str | None,
    attempts: int,
    bucket: BucketSettings,
    pid: int,
    environment: Environment,
) -> S3Client:
    from lego_ray.storage.s3_credentials import LiveCredentials, retry_with_new_credentials

    session = _session(bucket.profile, pid, environment)
    given = dict(environment)
    endpoint_url = endpoint_url or bucket.endpoint
    endpoint = endpoint_url or given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL")
    # Which server it is, boto3 says for certain once a client is made: a profile may name one too.
    aws = is_aws(endpoint or "")
    client = _made(session, endpoint_url, attempts, bucket, aws)
    if is_aws(client.meta.endpoint_url) != aws:
        client = _made(session, endpoint_url, attempts, bucket, not aws)
    check_plain(client.meta.endpoint_url)
    check_way(client.meta.endpoint_url)
    if not (bucket.profile or bucket.anonymous):
        check_keys(given)
    _ask_with(client, bucket)
    credentials = None if bucket.anonymous else session.core.get_credentials()
    if isinstance(credentials, LiveCredentials):
        retry_with_new_credentials(client, credentials)
    return client


def _made(
    session: _Session, endpoint_url: str | None, attempts: int, bucket: BucketSettings, aws: bool
) -> S3Client:
    from botocore import UNSIGNED
    from botocore.config import Config

    # boto3 adds checksums by default, in ways that other servers, such as Ceph 16, do not know.
    more: dict[str, Any] = {} if aws or chosen_checksums(session.core) else {**_WHEN_REQUIRED}
    if bucket.anonymous:
        more["signature_version"] = UNSIGNED
    return session.boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=bucket.region,
        verify=ca_bundle(session.core) or None,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            user_agent_extra="lego-ray",
            **more,
        ),
    )


def _ask_with(client: S3Client, bucket: BucketSettings) -> None:
    """Makes a client send with its requests what a bucket asks for."""
    payer = {"RequestPayer": "requester"} if bucket.requester_pays else {}
    encryption = {"ServerSideEncryption": bucket.sse, "SSEKMSKeyId": bucket.sse_kms_key_id}
    write = {name: value for name, value in encryption.items() if value}

    def add(extra: dict[str, str], operation: str) -> None:
        def added(params: dict[str, Any], **_: Any) -> None:
            params.update(extra)

        if extra:
            client.meta.events.register(f"provide-client-params.s3.{operation}", added)

    for operation in _READS:
        add(payer, operation)
    for operation in _WRITES:
        add(payer | write, operation)


# Operations that lego-ray uses and that say who pays; the second make an object.
_READS = (
    *("GetObject", "HeadObject", "ListObjectsV2", "DeleteObject"),
    *("UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"),
)
_WRITES = ("PutObject", "CreateMultipartUpload")

_WHEN_REQUIRED: dict[str, Any] = dict.fromkeys(CHECKSUM_SETTINGS, "when_required")
