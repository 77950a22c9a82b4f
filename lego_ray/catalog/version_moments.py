"""The moment at which a version of a merge was recorded, for questions that start there."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

from lego_ray.catalog.commits import commits_of
from lego_ray.catalog.history import find_merge
from lego_ray.catalog.ids import ids_that_begin
from lego_ray.catalog.moments import parse_moment
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError, InvalidOption

_VERSION = re.compile(r"(?P<name>.+)@v?(?P<version>\d{1,9})")


def moment_since(catalog: Catalog, text: str) -> datetime:
    """Reads where a comparison starts: a time as for `parse_moment`, or when a merge was recorded.

    A merge is named by `NAME@VERSION`, or by the first digits of its merge_id, six or more.

    Args:
        catalog: Where the merge is recorded.
        text: The time, or the merge.

    Returns:
        The time; of a merge, that of the commit with its row.

    Raises:
        InvalidOption: If it is neither, or no merge fits.
        CatalogNotFound: If nothing was merged into this catalog yet.
        CatalogError: If the log does not go back to that commit.
    """
    if found := _VERSION.fullmatch(text.strip()):
        return _recorded(
            catalog, find_merge(_merges(catalog), found["name"], int(found["version"]))
        )
    try:
        return parse_moment(text, "--since")
    except InvalidOption:
        rows = _merges(catalog) if ids_that_begin(text, [text.lower()]) else []
        if not ids_that_begin(text, (row["merge_id"] for row in rows)):
            raise
        return _recorded(catalog, find_merge(rows, text))


def _merges(catalog: Catalog) -> list[dict[str, Any]]:
    columns = ["merge_id", "name", "version"]
    found: list[dict[str, Any]] = catalog.read("merges", columns).to_pylist()
    return found


def _recorded(catalog: Catalog, merge: Mapping[str, Any]) -> datetime:
    merge_id = merge["merge_id"]
    # By the writers' clocks; where two disagree, a commit counts as no earlier than the one before it.
    commits = commits_of(catalog.open("merges"))[::-1]
    times = accumulate((int(each.get("timestamp", 0)) for each in commits), max)
    moments = [datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=time) for time in times]

    def is_there(moment: datetime) -> bool:
        return (
            merge_id in catalog.as_of(moment).read("merges", ["merge_id"])["merge_id"].to_pylist()
        )

    # A row that is there stays, so the first state with it is found by halves.
    first = bisect_left(moments, True, key=is_there)
    if first == len(moments) or (first == 0 and commits[0]["version"] > 0):
        raise CatalogError(
            catalog.table_uri("merges"),
            f"its log does not go back to version {merge['version']} of {merge['name']}",
            "Delta Lake keeps a table's log for 30 days; give a later version, or a time.",
        )
    return moments[first]
