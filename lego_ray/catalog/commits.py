"""A table's commits with the versions that they made, whatever is committed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Another try is needed only if a commit came between two requests.
_TRIES = 100
# Commits that are read first: a request each.
_FIRST = 64


def commits_of(handle: DeltaTable, back_to: int | None = None) -> list[dict[str, Any]]:
    """The last commits of a table, latest first, each with its `version`.

    `DeltaTable.history` lists the commits that there are now and counts down from the version that the
    handle was opened at: each commit made since then shifts all versions by one. So the latest commit of
    a version is found first, and then its place in the list.

    Args:
        handle: The table; left at its latest version.
        back_to: A time in milliseconds, of which one commit before is enough; None for all that the log
            has.

    Raises:
        CatalogError: If commits come faster than they can be looked at.
    """
    for _ in range(_TRIES):
        handle.update_incremental()
        version = handle.version()
        latest = handle.history(1)[-1]
        handle.update_incremental()
        if handle.version() != version:
            continue
        found = _listed(handle, back_to)
        place = next((n for n, each in enumerate(found) if _is_same(each, latest)), None)
        if place is not None:
            return [{**each, "version": version - n} for n, each in enumerate(found[place:])]
    raise CatalogError(
        handle.table_uri, "it is written to too fast to be looked at", "Ask again a little later."
    )


def _listed(handle: DeltaTable, back_to: int | None) -> list[dict[str, Any]]:
    limit = None if back_to is None else _FIRST
    while True:
        found = handle.history(limit)
        if limit is None or back_to is None or len(found) < limit:
            return found
        if int(found[-1].get("timestamp", 0)) < back_to:
            return found
        limit *= 4


def _is_same(commit: dict[str, Any], other: dict[str, Any]) -> bool:
    return {**commit, "version": 0} == {**other, "version": 0}
