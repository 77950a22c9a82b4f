"""The catalog: Delta tables of what was scanned and what was merged, and SQL over them.

The calls here take a catalog's URI, as `lego-ray catalog` does; the modules have the parts. Those with
`at` answer as of that time: a datetime, ISO 8601 text such as `2026-11-24T10:00Z`, in UTC where it names
no zone, or how long ago it was: `2d`, `yesterday`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any

from lego_ray.arguments import checked
from lego_ray.catalog.notebook import in_notebook

if TYPE_CHECKING:
    import pyarrow as pa

    from lego_ray.catalog.history import MergeDetail
    from lego_ray.catalog.tables import Catalog
    from lego_ray.catalog.upkeep.compact import Compacted
    from lego_ray.catalog.upkeep.migrate import Migrated
    from lego_ray.catalog.upkeep.vacuum import Vacuumed

Uri = str | PathLike[str]
Moment = datetime | str | None


@checked
def sql(
    catalog: Uri, query: str, *, at: Moment = None, time_limit: str | timedelta | None = "60s"
) -> pa.Table:
    """Answers one SELECT over the catalog's tables with DuckDB, in a separate process; see `query.sql`.

    Args:
        catalog: Which catalog.
        query: The SELECT.
        at: The time to answer as of.
        time_limit: The longest it may take: a duration, or text such as `90s` or `5m`; None for no
            limit.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        InvalidOption: If the time limit is not a duration above zero.
        QueryError: If the query is not one SELECT, or cannot be answered, or not within the limits of
            time and memory.
    """
    from lego_ray.catalog.query import sql as answer
    from lego_ray.catalog.upkeep.durations import parse_time_limit

    seconds = None if time_limit is None else parse_time_limit("--time-limit", time_limit)
    return in_notebook(answer(_open(catalog, at), query, seconds=seconds))


@checked
def list_merges(catalog: Uri, *, at: Moment = None) -> pa.Table:
    """Lists the merges, newest first; see `history.list_merges`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
    """
    from lego_ray.catalog.history import list_merges as listed

    return in_notebook(listed(_open(catalog, at)))


@checked
def log(catalog: Uri, *, since: Moment = None, at: Moment = None) -> pa.Table:
    """Lists scans that found something and merges, newest first; see `events.events`.

    Args:
        catalog: Which catalog.
        since: The first moment to list; None for all.
        at: The time to answer as of.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        InvalidOption: If a time is not one, or to come.
    """
    from lego_ray.catalog.events import events

    first = None if since is None else _moment(since, "--since")
    return in_notebook(events(_open(catalog, at), first))


@checked
def diff(catalog: Uri, *, since: str | datetime, at: Moment = None) -> pa.Table:
    """Lists the adapters and merges added, changed and gone since a moment; see `difference.difference`.

    Args:
        catalog: Which catalog.
        since: The moment to compare with; or a version of a merge, `NAME@VERSION`, for the moment at
            which it was recorded.
        at: The time to answer as of.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        InvalidOption: If a time is not one, or to come; or no merge fits.
        CatalogError: If a table's log does not go back that far.
    """
    from lego_ray.catalog.difference import difference
    from lego_ray.catalog.version_moments import moment_since

    after = _open(catalog, at)
    if isinstance(since, str):
        first = moment_since(_open(catalog, None), since)
    else:
        first = _moment(since, "--since")
    return in_notebook(difference(after.as_of(first), after))


@checked
def show(catalog: Uri, merge: str, *, version: int | None = None, at: Moment = None) -> MergeDetail:
    """Finds one merge by name or merge_id; see `history.show`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, or several do.
    """
    from lego_ray.catalog.history import show as shown

    return shown(_open(catalog, at), merge, version)


@checked
def lineage(
    catalog: Uri,
    merge: str,
    *,
    site: str | None = None,
    rank: int | None = None,
    version: int | None = None,
    at: Moment = None,
) -> pa.Table:
    """Says which adapters a merge is made of, and each one's share; see `ancestry.lineage`.

    With a site or a merged rank it says which source ranks that is made of; see
    `ancestry.rank_sources`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, or several do; or it has no such site or rank.
    """
    from lego_ray.catalog.ancestry import lineage as traced
    from lego_ray.catalog.ancestry import rank_sources

    opened = _open(catalog, at)
    if site is None and rank is None:
        return in_notebook(traced(opened, merge, version))
    return in_notebook(rank_sources(opened, merge, site=site, rank=rank, version=version))


@checked
def parents(
    catalog: Uri, merge: str, *, version: int | None = None, at: Moment = None
) -> list[dict[str, Any]]:
    """The merges that a merge is a later version of, the last one first; see `history.parents`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, or several do.
    """
    from lego_ray.catalog.history import parents as found

    return found(_open(catalog, at), merge, version)


@checked
def merges_with(catalog: Uri, adapter: str | PathLike[str], *, at: Moment = None) -> pa.Table:
    """Says which merges hold an adapter, directly or through other merges; see `holders.merges_with`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If the catalog knows no such adapter, or several.
    """
    from os import fspath

    from lego_ray.catalog.holders import merges_with as holding

    return in_notebook(holding(_open(catalog, at), fspath(adapter)))


@checked
def migrate(catalog: Uri) -> list[Migrated]:
    """Brings a catalog of an earlier release up to this one's schema; see `upkeep.migrate`.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        CatalogVersionMismatch: If a table is of a later release.
    """
    from lego_ray.catalog.upkeep.migrate import migrate as migrated

    return migrated(_to_write(catalog))


@checked
def compact(catalog: Uri) -> list[Compacted]:
    """Rewrites each table's small files into large ones; see `upkeep.compact`.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        CatalogError: If a file is damaged, or the commit was refused.
    """
    from lego_ray.catalog.upkeep.compact import compact as compacted

    opened = _to_write(catalog)
    return [compacted(opened, table) for table in opened.required_tables()]


@checked
def vacuum(
    catalog: Uri,
    *,
    retention: str | timedelta = "7d",
    dry_run: bool = False,
    force: bool = False,
) -> list[Vacuumed]:
    """Removes each table's files that were replaced longer ago than the retention; see `upkeep.vacuum`.

    Args:
        catalog: Which catalog.
        retention: For how long they are kept: a duration, or text such as `7d` or `36h`.
        dry_run: Whether only to say what would be removed.
        force: Whether a retention below a day is meant.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        InvalidOption: If the retention is too short.
        CatalogError: If there are files of others in a table's directory.
    """
    from lego_ray.catalog.upkeep.durations import check_long_enough, parse_duration
    from lego_ray.catalog.upkeep.vacuum import vacuum as vacuumed

    kept = parse_duration("--retention", retention)
    check_long_enough("--retention", kept, force)
    opened = _open(catalog, None) if dry_run else _to_write(catalog)
    return [
        vacuumed(opened, table, kept, dry_run=dry_run, force=force)
        for table in opened.required_tables()
    ]


def _open(catalog: Uri, at: Moment) -> Catalog:
    from lego_ray.catalog.opening import open_catalog

    opened = open_catalog(catalog)
    return opened if at is None else opened.as_of(_moment(at, "--at"))


def _moment(given: str | datetime, option: str) -> datetime:
    from lego_ray.catalog.moments import parse_moment, past

    return parse_moment(given, option) if isinstance(given, str) else past(given, option)


def _to_write(catalog: Uri) -> Catalog:
    """Opens a catalog that is there, on a store that loses no commit."""
    from lego_ray.catalog.opening import check_store

    opened = _open(catalog, None)
    opened.required_tables()
    check_store(opened)
    return opened
