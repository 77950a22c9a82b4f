"""A catalog's tables lie in it, whatever their logs say: a log may come from anyone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lego_ray.errors import CatalogError
from lego_ray.storage.file_errors import disk_errors

if TYPE_CHECKING:
    from deltalake import DeltaTable

_HINT = "Nothing was read from there. Find out who wrote it, or restore the table from a copy."


def check_table(uri: str) -> None:
    """Passes a table whose directory, on disk, is in the catalog itself and not reached by a link.

    Args:
        uri: The table's; the catalog may be a link, as the user gave it.

    Raises:
        CatalogError: Otherwise, or if a file is where the catalog should be.
        StorageError: If the system does not take the path.
    """
    if "://" not in uri:
        check_no_file(uri)
        for path in (Path(uri), Path(uri, "_delta_log")):
            with disk_errors(uri):
                is_link = path.is_symlink()
            if is_link:
                raise CatalogError(uri, f"{path} is a link, which leads out of the catalog", _HINT)


def check_no_file(uri: str) -> None:
    """Passes a table of a catalog that is a directory, or nothing yet, and no file.

    Args:
        uri: The table's.

    Raises:
        CatalogError: If the catalog, or a folder above it, is a file.
        StorageError: If the system does not take the path.
    """
    if "://" in uri:
        return
    catalog = Path(uri).parent
    with disk_errors(uri):
        above = next((path for path in (catalog, *catalog.parents) if path.exists()), None)
        is_file = above is not None and not above.is_dir()
    if is_file:
        raise CatalogError(
            str(catalog),
            "it is a file, and a catalog is a directory of tables"
            if above == catalog
            else f"{above} is a file, and a catalog is a directory of tables",
            "Choose another --catalog.",
        )


def check_files_inside(uri: str, handle: DeltaTable) -> None:
    """Passes a table all of whose files lie in its directory.

    The log names them. A name may be a path with `..`, a URI, or one that links lead elsewhere from,
    and a reader follows it.

    Args:
        uri: The table's.
        handle: The table.

    Raises:
        CatalogError: If one is outside.
    """
    import pyarrow as pa

    names = pa.table(handle.get_add_actions()).column("path").to_pylist()
    for name in names:
        plain = unquote(name)
        if any(part in ("", ".", "..") for part in plain.split("/")) or ":" in plain.split("/")[0]:
            raise CatalogError(uri, f"its log names a file outside it, {plain[:200]!r}", _HINT)
        if "://" not in uri and _is_linked(uri, plain):
            raise CatalogError(uri, f"{plain[:200]!r} in it is a link to another file", _HINT)


def _is_linked(root: str, name: str) -> bool:
    path = root
    for part in name.split("/"):
        path = f"{path}/{part}"
        if os.path.islink(path):  # noqa: PTH114 - of each file at each opening
            return True
    return False
