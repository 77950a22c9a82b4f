"""Opens a catalog where it is, with the credentials storage finds for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

from lego_ray.catalog.same_place import check_same_place
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import InvalidOption, UnsupportedUri
from lego_ray.storage.base import Store
from lego_ray.storage.delta_options import delta_storage_options
from lego_ray.storage.places import Place
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import parse_uri


def open_catalog(uri: str | os.PathLike[str]) -> Catalog:
    """Opens a catalog by its URI, as `catalog_at` does by its place.

    Args:
        uri: A directory, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.

    Raises:
        AccessDenied: If it is on S3 and no credentials are found.
        UnsupportedUri: If the scheme or the form is another.
    """
    return catalog_at(parse_uri(uri))


def catalog_at(place: Place) -> Catalog:
    """Opens a catalog, without touching disk or network yet.

    Args:
        place: A directory, or a prefix in a bucket.

    Raises:
        AccessDenied: If it is on S3 and no credentials are found.
        UnsupportedUri: If it is on the Hub.
    """
    if place.is_read_only:
        raise UnsupportedUri(
            str(place), "catalogs cannot be written there", "Give a path, s3://, gs:// or az://."
        )
    fresh = partial(delta_storage_options, place)
    fresh()  # says now, not at the first opening, that there are no credentials
    return Catalog(str(place), fresh_options=fresh)


def store_of(catalog: Catalog) -> Store:
    """The store of a catalog's files, without touching disk or network yet.

    A catalog has its URI as text, which is what the Delta library takes.

    Args:
        catalog: The catalog.
    """
    return parse_uri(catalog.uri).open()


def check_before_writing(catalog: Catalog, tables: Iterable[str] = tuple(TABLES)) -> None:
    """Makes sure, before any work is done, that it can be recorded.

    Args:
        catalog: The catalog.
        tables: Tables that will get rows.

    Raises:
        CatalogVersionMismatch: If a table is of another schema version.
        CatalogError: If another program changed a table so that rows cannot be added, or the Delta
            library writes to another place than the rest of lego-ray.
        StorageError: If the store cannot be written, or can lose a commit.
    """
    catalog.check_writable(tables)
    check_store(catalog)


def check_store(catalog: Catalog) -> None:
    """Makes sure that the Delta library can write where a catalog is; the tables are not looked at.

    Args:
        catalog: The catalog.

    Raises:
        CatalogError: If the Delta library writes to another place than the rest of lego-ray.
        StorageError: If the store cannot be written, or can lose a commit.
    """
    store = store_of(catalog)
    probe_create_only(store)
    check_same_place(store, catalog.options())


def check_outside_tables(catalog: Catalog, output: Place) -> None:
    """Passes an output that is not in the directory of a table, where only the table's files belong.

    Args:
        catalog: The catalog.
        output: Where a merge will be written.

    Raises:
        InvalidOption: Otherwise.
    """
    for table in TABLES:
        if output.is_inside(parse_uri(catalog.table_uri(table))):
            problem = (
                f"{output} is in the directory of a table, {table}, of the catalog {catalog.uri}: "
                "programs that vacuum the table delete what is not its own"
            )
            raise InvalidOption("--output", problem, "Choose another --output.")


def has_merge(catalog: Catalog, merge_id: str) -> bool:
    """Whether a merge is recorded in a catalog.

    Args:
        catalog: The catalog.
        merge_id: The plan's digest, in hex.
    """
    if not catalog.exists("merges"):
        return False
    known = catalog.read("merges", ["merge_id"])["merge_id"]
    return merge_id in known.to_pylist()
