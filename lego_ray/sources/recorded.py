"""Where an adapter is, by its record: records are data of plans and formats, which know no places."""

from __future__ import annotations

from typing import Protocol

from lego_ray.formats.record import AdapterRecord
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri


class InFolder(Protocol):
    """A record of an adapter, or of a part of one."""

    @property
    def folder(self) -> str:
        """The URI of the directory that its weights file is in."""


def folder_of(record: InFolder) -> Place:
    """The directory that an adapter's weights file is in.

    Args:
        record: A record of the adapter.
    """
    return parse_uri(record.folder)


def place_of(adapter: AdapterRecord) -> Place:
    """An adapter's directory, or its file where it is one.

    Args:
        adapter: Its record.
    """
    return parse_uri(adapter.uri)
