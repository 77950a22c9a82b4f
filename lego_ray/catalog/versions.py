"""Which schema version a table is of, and what that allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lego_ray.catalog.schema import SCHEMA_VERSION
from lego_ray.errors import CatalogVersionMismatch

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Where a table keeps the version of the schema it is of.
VERSION_KEY = "lego_ray.schema_version"


def version_of(handle: DeltaTable) -> int:
    """The schema version of a table in a given state; 0 if lego-ray did not make it."""
    return int(handle.metadata().configuration.get(VERSION_KEY, "0"))


def check_readable(uri: str, handle: DeltaTable) -> None:
    """Refuses a table of a later release, whose columns may mean something else.

    Args:
        uri: The table's, for the error.
        handle: The table.

    Raises:
        CatalogVersionMismatch: If it is.
    """
    version = version_of(handle)
    if version > SCHEMA_VERSION:
        raise CatalogVersionMismatch(
            uri,
            f"its schema version is {version}, and this lego-ray reads up to {SCHEMA_VERSION}",
            "Upgrade lego-ray.",
        )


def check_current(uri: str, handle: DeltaTable) -> None:
    """Refuses a table that rows of this release do not fit.

    Args:
        uri: The table's, for the error.
        handle: The table.

    Raises:
        CatalogVersionMismatch: If it is of another schema version.
    """
    check_readable(uri, handle)
    version = version_of(handle)
    if version < SCHEMA_VERSION:
        catalog = uri.rpartition("/")[0]
        raise CatalogVersionMismatch(
            uri,
            f"its schema version is {version}, and this lego-ray writes {SCHEMA_VERSION}",
            f"Run `lego-ray catalog migrate --catalog {catalog}`; it loses nothing. Until then the "
            "catalog can be read and not written.",
        )
