"""What a store's failures amount to, told by the words in them, and which are tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake.exceptions import CommitFailedError, DeltaError

from lego_ray.catalog import failures
from lego_ray.catalog.commit import commit
from lego_ray.catalog.failures import READINGS, read_through, translate
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import AccessDenied, CatalogError, ObjectNotFound, StoreUnavailable

CUT = (
    "Kernel error -> Generic S3 error \x1b[31m↳\x1b[0m Error getting list response body "
    "\x1b[31m↳\x1b[0m HTTP error \x1b[31m↳\x1b[0m request or response body error "
    "\x1b[31m↳\x1b[0m error reading a body from connection \x1b[31m↳\x1b[0m end of file before "
    "message length reached"
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (CUT, StoreUnavailable),
        ("Generic S3 error: error sending request for url", StoreUnavailable),
        ("connection closed before message completed", StoreUnavailable),
        ("Connection reset by peer (os error 104)", StoreUnavailable),
        ("Generic S3 error: error decoding response body", StoreUnavailable),
        ("Server returned non-2xx status code: 503 Slow Down", StoreUnavailable),
        (
            "AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush response stream",
            StoreUnavailable,
        ),
        (
            "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 52, Server returned "
            "nothing (no headers, no data)",
            StoreUnavailable,
        ),
        ("AWS Error UNKNOWN (HTTP status 500) during HeadObject operation", StoreUnavailable),
        ("Client error with status 403 Forbidden", AccessDenied),
        ("Client error: NoSuchBucket", ObjectNotFound),
        ("Schema of data does not match table schema", CatalogError),
    ],
)
def test_a_failure_is_told_by_its_words(text: str, kind: type[Exception]) -> None:
    error = translate("s3://b/catalog/merges", DeltaError(text))
    assert type(error) is kind
    assert "\x1b" not in str(error)
    assert error.where == "s3://b/catalog/merges"


@pytest.mark.parametrize(
    ("text", "attempts"),
    [
        ("Failed to commit transaction: Concurrent transaction failed.", 3),
        ("Failed to commit transaction: Metadata changed since last commit.", 3),
        ("Tried committing existing table version: 7", 3),
        ("Unsupported table features required: [DomainMetadata, ClusteredTable]", 1),
        (
            "The transaction includes Remove action with data change but Delta table is append-only",
            1,
        ),
    ],
)
def test_only_a_conflict_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, attempts: int
) -> None:
    catalog = Catalog(str(tmp_path))
    monkeypatch.setattr("lego_ray.catalog.commit._CONFLICT_ATTEMPTS", 3)
    tried = []

    class Failing:
        def apply(self, handle: object) -> None:
            tried.append(handle)
            raise CommitFailedError(text)

    with pytest.raises(CatalogError, match="3 commits lost" if attempts > 1 else text[:20]):
        commit(
            lambda: catalog.open_or_create("merges"),
            lambda handle, again: Failing(),
            "s3://b/catalog/merges",
        )
    assert len(tried) == attempts


def failing(times: int, text: str) -> tuple[Callable[[], str], list[int]]:
    """What fails so many times and then reads, and how often it was asked."""
    asked = [0]

    def read() -> str:
        asked[0] += 1
        if asked[0] <= times:
            raise DeltaError(text)
        return "rows"

    return read, asked


def test_what_broke_off_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_WAIT_SECONDS", 0.0)
    read, asked = failing(READINGS - 1, CUT)
    assert read_through("s3://b/catalog/merges", read) == "rows"
    assert asked == [READINGS]


@pytest.mark.parametrize(
    ("text", "kind", "times"),
    [
        (CUT, StoreUnavailable, READINGS),
        # The library has tried this for seconds already.
        ("tcp connect error: Connection refused (os error 111)", StoreUnavailable, 1),
        ("Client error with status 403 Forbidden", AccessDenied, 1),
        ("Schema of data does not match table schema", CatalogError, 1),
    ],
)
def test_what_does_not_pass_is_said(
    text: str, kind: type[Exception], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_WAIT_SECONDS", 0.0)
    read, asked = failing(READINGS, text)
    with pytest.raises(kind):
        read_through("s3://b/catalog/merges", read)
    assert asked == [times]
