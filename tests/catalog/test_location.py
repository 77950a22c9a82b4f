"""What the Delta library's failures amount to, told by the words in them."""

from __future__ import annotations

import pytest
from deltalake.exceptions import DeltaError

from lego_ray.catalog.location import translate
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
