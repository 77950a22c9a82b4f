"""A catalog on disk, and one on a real S3 server, for tests that must hold on both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lego_ray.catalog.tables import Catalog

if TYPE_CHECKING:
    from tests.ceph_gateway import S3Server

STORES = [pytest.param("file"), pytest.param("s3", marks=pytest.mark.s3)]


def s3_options(server: S3Server, **changes: str) -> dict[str, str]:
    """The Delta library's options for the test server."""
    return {
        "AWS_ENDPOINT_URL": server.endpoint_url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_REGION": "us-east-1",
        **changes,
    }


def fresh_catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    """An empty catalog on the store that is the fixture's parameter."""
    if request.param == "file":
        return Catalog(str(tmp_path / "catalog"))
    bucket: str = request.getfixturevalue("s3_bucket")
    return Catalog(f"s3://{bucket}/team/catalog", s3_options(request.getfixturevalue("s3_server")))


def copied_catalog(made: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    """A copy, on the store that is the fixture's parameter, of a catalog that was made on disk.

    A table is the same files on either, and to copy them takes a tenth of the time of making them.
    """
    catalog = fresh_catalog(request, tmp_path)
    if request.param == "file":
        shutil.copytree(made, catalog.uri)
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        server.upload(made, request.getfixturevalue("s3_bucket"), "team/catalog/")
    return catalog
