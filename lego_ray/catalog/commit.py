"""One change to a table, made exactly once however many writers race."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from lego_ray.catalog.changes import Change
from lego_ray.catalog.failures import READINGS, is_broken_off, is_conflict, is_gone, translate
from lego_ray.errors import CatalogError, NoSpaceLeft, StoreUnavailable

if TYPE_CHECKING:
    from deltalake import DeltaTable

# We look at the table again this often. A compare-and-swap loses a whole round to each other writer.
_CONFLICT_ATTEMPTS = 60
_FAILURE_ATTEMPTS = 3
_LONGEST_WAIT = 1.0


def commit(
    opener: Callable[[], DeltaTable], prepare: Callable[[DeltaTable, bool], Change | None], uri: str
) -> None:
    """Commits what `prepare` makes of a table's latest state.

    A change that another writer overtook is made again from the state after it. So is one that reads a
    file which a vacuum took away since the table was opened.

    A failed try is never assumed to have left nothing behind: the table is opened again and
    `prepare` asked again, and it must answer None once its change is there.

    Args:
        opener: Opens the table, making it if there is none.
        prepare: The change to make to a table in the state given, or None for none. Also receives
            whether it was asked before.
        uri: The table's, for errors.

    Raises:
        CatalogError: If the commit was refused, which is not tried again, or lost too many races.
        StorageError: If the store could not be reached or refused access.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError

    conflicts = failures = 0
    again = False
    # The state in which a file was missing: missing twice, it was not overtaken but is lost.
    lacking: int | None = None
    handle: DeltaTable | None = None
    while True:
        try:
            handle = opener()
            change = prepare(handle, again)
            if change is None:
                return
            again = True
            change.apply(handle)
            return
        except CommitFailedError as error:
            if not is_conflict(error):
                raise translate(uri, error) from error
            conflicts += 1
            if conflicts >= _CONFLICT_ATTEMPTS:
                raise CatalogError(
                    uri, f"{conflicts} commits lost to other writers", "Run again."
                ) from error
        except (DeltaError, OSError, StoreUnavailable, pa.ArrowException) as error:
            if is_gone(error):
                version = handle.version() if handle is not None else None
                if version == lacking or conflicts >= _CONFLICT_ATTEMPTS:
                    raise translate(uri, error) from error
                lacking = version
                conflicts += 1
            else:
                failures += 1
                # Opening and looking at the table say already what their failures mean.
                meaning = error if isinstance(error, StoreUnavailable) else translate(uri, error)
                most = READINGS if is_broken_off(meaning.problem) else _FAILURE_ATTEMPTS
                passing = isinstance(meaning, StoreUnavailable) and not isinstance(
                    meaning, NoSpaceLeft
                )
                if failures >= most or not passing:
                    raise meaning from error
        wait_after(conflicts + failures)


def wait_after(attempt: int) -> None:
    """Waits a random time, longer the more attempts came before it."""
    # Writers that lost the same race must not meet again; the user's own generator is left alone.
    time.sleep(random.SystemRandom().uniform(0, min(_LONGEST_WAIT, 0.02 * 2**attempt)))
