"""A table of tags, read from where it is."""

from __future__ import annotations

import os

from lego_ray.errors import InvalidOption, UnsupportedUri
from lego_ray.planning.tags import TABLE_FLAG, Tagging, parse_folders, parse_tags
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.uri import parse_uri

LARGEST = 64 << 20


def read_tagging(table: str | os.PathLike[str] | None, folders: str | None) -> Tagging:
    """Reads where tags come from.

    Args:
        table: A CSV file, a path or URI; see `planning.tags.parse_tags`.
        folders: A pattern of folders; see `planning.tags.parse_folders`.

    Raises:
        InvalidOption: If one is not as it must be.
        ObjectNotFound: If there is no such file.
        StorageError: If it cannot be read.
    """
    keys = () if folders is None else parse_folders(folders)
    if table is None:
        return Tagging(folders=keys)
    place = parse_uri(table)
    parts = place.split()
    if parts is None:
        raise UnsupportedUri(str(place), "this is the root of a store", "Give the path of a file.")
    data = read_at_most(parts[0].open(), parts[1], LARGEST)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidOption(
            TABLE_FLAG, f"{place} is not UTF-8 text", "Save it as UTF-8."
        ) from error
    return Tagging(parse_tags(text, str(place)), keys, str(place))
