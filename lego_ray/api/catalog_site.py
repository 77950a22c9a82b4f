"""Writes a catalog as a static site, to be opened in a browser without a server."""

from __future__ import annotations

from lego_ray.arguments import checked
from lego_ray.audit.check import check_catalog
from lego_ray.audit.collect import collect_garbage
from lego_ray.audit.record import CatalogCheck, Garbage
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.totals import table_sizes
from lego_ray.errors import CatalogNotFound, InvalidOption, StoreUnavailable
from lego_ray.planning.arguments import Uri
from lego_ray.reporting.site.files import SiteFiles, check_output
from lego_ray.reporting.site.health import Health, find_vacuumed
from lego_ray.reporting.site.record import SiteRecord
from lego_ray.reporting.site.write import write_site
from lego_ray.storage.uri import parse_uri


@checked
def write_catalog_site(
    catalog: Uri,
    *,
    output: Uri,
    root: Uri | None = None,
    check: bool = True,
) -> SiteRecord:
    """Writes a static site of a catalog: adapters, merges, lineage, groups and health.

    The site needs no server and no network: open its `index.html` in a browser, from disk too. Its data
    are many small files, loaded when they are shown. The same catalog gives the same bytes, and files
    that exist are not written again. The index is written last. Files of former versions of the site are
    deleted when they are a day old; other files are left alone.

    Args:
        catalog: The catalog.
        output: Where to write the site: a directory or `s3://bucket/prefix`.
        root: Also list what `collect_garbage` would delete below this directory or `s3://bucket/prefix`.
        check: Check the catalog as `check_catalog` does, which reads the manifest of every merge, and
            list the problems.

    Returns:
        What was written; see `SiteRecord`, which is read like a dictionary too.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        OutputExists: If the output has an `index.html` that is not a site's.
        InvalidOption: If the output cannot be written or is inside a table of the catalog, or a root is
            given and there are no merges.
        ObjectNotFound: If there is no such root.
        RunFailed: If another process wrote the site at the same time.
        StorageError: If a store could not be reached or refused access.
    """
    opened = open_catalog(catalog)
    tables = opened.required_tables()
    place = parse_uri(output)
    check_output(place, [parse_uri(opened.table_uri(table)) for table in tables])
    if root is not None and "merges" not in tables:
        raise InvalidOption(
            "--root",
            f"nothing was merged into {opened.uri} yet, so everything would count as garbage",
            "Leave out --root.",
        )
    files = SiteFiles(place.open())
    checked_record, notes = _check(opened, tables) if check else (None, [])
    garbage: Garbage | None = None if root is None else collect_garbage(opened.uri, root)
    vacuumed, refused = find_vacuumed(opened, tables)
    health = Health(table_sizes(opened), vacuumed, checked_record, garbage, (*notes, *refused))
    return write_site(opened, files, health)


def _check(catalog: Catalog, tables: tuple[str, ...]) -> tuple[CatalogCheck | None, list[str]]:
    """What the check says, or a sentence on why there is none."""
    if "merges" not in tables:
        return None, []
    try:
        return check_catalog(catalog.uri), []
    except (CatalogNotFound, StoreUnavailable) as error:
        return None, [f"The catalog was not checked: {error.where}: {error.problem}."]
