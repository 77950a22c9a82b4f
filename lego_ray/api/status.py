"""How far a merge or a library is. Loads neither torch nor Ray."""

from __future__ import annotations

from os import PathLike

from lego_ray.arguments import checked
from lego_ray.errors import ObjectNotFound
from lego_ray.library.progress import LibraryStatus, library_progress
from lego_ray.output.progress import StatusRecord, progress_at
from lego_ray.storage.base import ObjectInfo, Store, list_readable
from lego_ray.storage.uri import parse_uri


@checked
def status(run: str | PathLike[str]) -> StatusRecord:
    """Says how far a merge is. Reads only, and may be asked while it runs.

    Args:
        run: The output of the merge.

    Returns:
        How far it is; see `StatusRecord`, which is read like a dictionary too.

    Raises:
        ObjectNotFound: If neither a merge nor an unfinished run was found.
        OutputExists: If the unfinished run is of another release.
        StorageError: If the store cannot be read.
    """
    store, found = _listed(run)
    progress = progress_at(store, found)
    if progress is None:
        raise _nothing_found(store, "", "Give the --output of a merge.")
    return progress


@checked
def library_status(output: str | PathLike[str]) -> LibraryStatus:
    """Says how far each merge of a library is. Reads only, and may be asked while it runs.

    Args:
        output: The output of a `build` or a `refresh`, or any folder that merges are below. Merges for
            which the recipe names other places are not included.

    Returns:
        How far they are; see `LibraryStatus`, which is read like a dictionary too.

    Raises:
        ObjectNotFound: If no merge and no unfinished run was found below it.
        OutputExists: If an unfinished run is of another release.
        StorageError: If the store cannot be read.
    """
    store, found = _listed(output)
    progress = library_progress(store, found)
    if progress is None:
        raise _nothing_found(store, _BELOW, _ANY_OUTPUT)
    return progress


def status_of_either(output: str | PathLike[str]) -> StatusRecord | LibraryStatus:
    """Says how far a merge is or, if there is none at the output itself, each merge below it.

    Lists the output once. See `status` and `library_status`, also for the errors.

    Args:
        output: The output of a merge, a `build` or a `refresh`.
    """
    store, found = _listed(output)
    progress = progress_at(store, found) or library_progress(store, found)
    if progress is None:
        raise _nothing_found(store, _BELOW, _ANY_OUTPUT)
    return progress


def _listed(output: str | PathLike[str]) -> tuple[Store, dict[str, ObjectInfo]]:
    store = parse_uri(output).open()
    return store, {info.key: info for info in list_readable(store)}


_BELOW = " there or below"
_ANY_OUTPUT = "Give the --output of a merge, a build or a refresh."


def _nothing_found(store: Store, where: str, hint: str) -> ObjectNotFound:
    problem = f"neither a merge nor an unfinished run was found{where}"
    return ObjectNotFound(store.uri, problem, hint)
