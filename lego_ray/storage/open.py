"""Opens a store by its URI."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module

from lego_ray.storage.base import Store
from lego_ray.storage.uri import STORES, parse_uri


def open_store(uri: str | os.PathLike[str]) -> Store:
    """Opens the store at a URI, without touching disk or network yet.

    Args:
        uri: A path, `file:///path`, `s3://bucket/prefix`, or `hf://owner/name[@revision][/folder]`.

    Returns:
        A store whose keys lie below that URI.

    Raises:
        UnsupportedUri: If the scheme or the form is another.
    """
    parsed = parse_uri(uri)
    module, _, name = STORES[parsed.scheme].home.partition(":")
    make: Callable[..., Store] = getattr(import_module(module), name)
    return make(*(getattr(parsed, field.name) for field in fields(parsed)))
