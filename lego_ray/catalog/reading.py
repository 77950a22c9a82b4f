"""The file system that a table's Parquet files are read and written through."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyarrow import fs

from lego_ray.catalog.location import directory_of

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.fs import DeltaStorageHandler

# Names an option goes by, without its `aws_` prefix.
_KEY_ID = ("access_key_id",)
_SECRET = ("secret_access_key",)
_TOKEN = ("session_token", "token")
_REGION = ("region", "default_region")
_ENDPOINT = ("endpoint_url", "endpoint")
_ANONYMOUS = ("skip_signature",)
_VIRTUAL = ("virtual_hosted_style_request",)
_CA_FILE = ("ca_bundle",)
_PROXY = ("proxy_url",)
_NOT_BY_PROXY = ("proxy_excludes",)
_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = _BUFFER_BYTES // 4


def filesystem_of(handle: DeltaTable) -> fs.FileSystem:
    """Opens the file system of a table's directory, to read, by the options the table was opened with.

    Args:
        handle: The table.
    """
    return native_filesystem(
        directory_of(handle), handle._storage_options or {}
    ) or fs.PyFileSystem(_own(handle))


def put_file(handle: DeltaTable, name: str, content: pa.Buffer) -> None:
    """Writes a file into a table's directory, which no commit names yet.

    Args:
        handle: The table.
        name: The file's path in its directory.
        content: Its bytes.

    Raises:
        OSError: If the store failed; it may have taken some of the file.
    """
    write_file(_own(handle), name, content)


def write_file(own: DeltaStorageHandler, name: str, content: pa.Buffer) -> None:
    """Writes a file through the Delta library's own store.

    Arrow's writer sends S3 requests without their length, which Ceph refuses.

    Args:
        own: The store.
        name: The file's path in it.
        content: Its bytes.

    Raises:
        OSError: If the store failed; it may have taken some of the file.
    """
    files = fs.PyFileSystem(own)
    with files.open_output_stream(name, compression=None, buffer_size=_BUFFER_BYTES) as out:
        # Arrow hands larger pieces on as they are, in a form that the library does not take.
        for start in range(0, content.size, _PIECE_BYTES):
            out.write(content[start : start + _PIECE_BYTES])


def _own(handle: DeltaTable) -> DeltaStorageHandler:
    from deltalake.fs import DeltaStorageHandler

    return DeltaStorageHandler(handle.table_uri, handle._storage_options or {})


def native_filesystem(uri: str, options: Mapping[str, str]) -> fs.FileSystem | None:
    """Opens a directory with Arrow's own readers.

    The Delta library's file system is Python called from Arrow's threads. One of those may still
    be letting go of a file when the interpreter ends, and the process then aborts after all its
    work is done: 2 of 15 runs that read 100 small files.

    Args:
        uri: A path or `s3://`.
        options: The Delta library's options for the store; its environment variables count too.

    Returns:
        A file system rooted at the directory, or None for a kind of store Arrow is not asked to
        read.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return fs.SubTreeFileSystem(uri, fs.LocalFileSystem())
    if scheme in ("s3", "s3a") and not _is_paid_by_reader(options):  # Arrow cannot agree to pay
        return fs.SubTreeFileSystem(rest, _s3(options, rest.partition("/")[0]))
    return None


def _is_paid_by_reader(options: Mapping[str, str]) -> bool:
    given = {name.lower().removeprefix("aws_"): value for name, value in options.items()}
    return given.get("request_payer", "").lower() in ("true", "1")


def _s3(options: Mapping[str, str], bucket: str) -> fs.S3FileSystem:
    given = {name.lower().removeprefix("aws_"): value for name, value in options.items()}

    def option(names: tuple[str, ...], environment: bool = False) -> str | None:
        for name in names:
            value = given.get(name)
            if value is None and environment:
                value = os.environ.get(f"AWS_{name.upper()}")
            if value:
                return value
        return None

    # Keys left out are looked for by Arrow where every AWS client looks for them.
    key_id = option(_KEY_ID)
    anonymous = str(option(_ANONYMOUS)).lower() in ("true", "1")
    endpoint = option(_ENDPOINT, environment=True)
    scheme, separator, host = (endpoint or "").rpartition("://")
    virtual = str(option(_VIRTUAL)).lower() in ("true", "1")
    # The Delta library takes the bucket for a part of the server's name, and Arrow adds it.
    host = host.removeprefix(f"{bucket}.") if virtual else host
    return fs.S3FileSystem(
        access_key=None if anonymous else key_id,
        secret_key=None if anonymous else option(_SECRET),
        session_token=None if anonymous or not key_id else option(_TOKEN),
        anonymous=anonymous,
        region=option(_REGION, environment=True),
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme if separator else "https",
        force_virtual_addressing=virtual,
        tls_ca_file_path=option(_CA_FILE, environment=True),
        proxy_options=_proxy(option(_PROXY), option(_NOT_BY_PROXY), host),
    )


def _proxy(proxy: str | None, excludes: str | None, host: str) -> str | None:
    """The proxy that the Delta library reaches a host through."""
    without = (excludes or "").split(",")
    return None if "*" in without or host.partition(":")[0] in without else proxy
