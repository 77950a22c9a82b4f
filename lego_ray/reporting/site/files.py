"""Puts the files of a site into a store: the index last, nothing of others touched."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from lego_ray.errors import (
    AlreadyExists,
    InvalidOption,
    ObjectNotFound,
    OutputExists,
    RunFailed,
    StorageError,
)
from lego_ray.reporting.site.pages import ASSETS, DATA, File, is_own, is_own_name
from lego_ray.storage.base import Store
from lego_ray.storage.places import Place

INDEX = "index.html"
# What an index starts with, by which one written before is known from other files.
START = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta name="generator" content="lego-ray catalog site">'
)
# For so long, pages that are open in a browser find the data of the site that they are of.
KEPT = timedelta(days=1)
# Tries to put the index where others put theirs at the same time.
_TRIES = 5


class SiteFiles:
    """A site in a store, while it is written.

    Attributes:
        store: Where.
        n_written: Files that were not there before.
        n_bytes: Bytes of all files of the site.
    """

    def __init__(self, store: Store) -> None:
        """Looks at what is there.

        Args:
            store: Where the site is to be.

        Raises:
            OutputExists: If the store has another index.
        """
        self.store = store
        self.n_written = 0
        self.n_bytes = 0
        self._former = _index(store)
        self._there = {
            info.key: info
            for folder in (DATA, ASSETS)
            for info in store.list(folder)
            if is_own_name(info.key)
        }
        self._keys: set[str] = set()

    def __len__(self) -> int:
        """Files of the site."""
        return len(self._keys)

    def put(self, file: File) -> str:
        """Writes a file that is not there; its name says what is in it.

        Args:
            file: The file.

        Returns:
            Its key.

        Raises:
            OutputExists: If a file of others has its name.
        """
        known = self._there.get(file.key)
        if known is None:
            try:
                self.store.create(file.key, file.data)
                self.n_written += 1
            except AlreadyExists:  # by another process, at this moment
                known = self.store.stat(file.key)
        if known is not None and known.size != len(file.data):
            raise OutputExists(
                str(self.store.place.join(file.key)),
                f"it has {known.size} bytes, and a file of this name has {len(file.data)}",
                "Delete it, or give another --output.",
            )
        self._add(file)
        return file.key

    def put_all(self, files: Iterable[File]) -> list[str]:
        """Writes files, and says their keys.

        Args:
            files: The files; taken one at a time.
        """
        return [self.put(file) for file in files]

    def finish(self, index: bytes) -> int:
        """Writes the index in place of the former one, then removes files that no site needs.

        Files that a former site had are kept for `KEPT`, so that it can be looked at to the end. Only
        those are removed whose bytes are what their names say.

        Args:
            index: The index; it starts with `START`.

        Returns:
            How many files were removed.

        Raises:
            RunFailed: If another process wrote the site at the same time.
        """
        self._add(File(INDEX, index))
        if index != self._former:
            self.n_written += 1
            self._replace(index)
        removed = self._remove_old()
        left = {info.key for folder in (DATA, ASSETS) for info in self.store.list(folder)}
        if not self._keys - {INDEX} <= left:
            raise RunFailed(
                self.store.uri,
                "another process wrote this site at the same time, and removed files of it",
                "Run the command again.",
            )
        return removed

    def _add(self, file: File) -> None:
        if file.key not in self._keys:
            self._keys.add(file.key)
            self.n_bytes += len(file.data)

    def _replace(self, index: bytes) -> None:
        for _ in range(_TRIES):
            self.store.delete(INDEX)
            try:
                self.store.create(INDEX, index)
                return
            except AlreadyExists:
                if _index(self.store) == index:
                    return
        raise RunFailed(
            self.store.uri,
            "other processes write this site at the same time",
            "Run the command again when they are done.",
        )

    def _remove_old(self) -> int:
        now, removed = datetime.now(UTC), 0
        for key, info in self._there.items():
            if key in self._keys or info.modified_at is None or now - info.modified_at < KEPT:
                continue
            try:
                if is_own(key, self.store.read(key, info.version)):
                    self.store.delete(key)
                    removed += 1
            except StorageError:  # gone, or written again: then it is not old
                continue
        return removed


def check_output(output: Place, tables: Iterable[Place]) -> None:
    """Refuses a place that cannot hold a site.

    Args:
        output: Where the site is to be.
        tables: Where the catalog's tables are.

    Raises:
        InvalidOption: If nothing can be written there, or it is in a table's directory.
    """
    if output.is_read_only:
        raise InvalidOption(
            "--output", f"{output} cannot be written", "Give a directory or s3://bucket/prefix."
        )
    if any(output.is_inside(table) for table in tables):
        raise InvalidOption(
            "--output", f"{output} is inside a table of the catalog", "Give another directory."
        )


def _index(store: Store) -> bytes | None:
    try:
        found = store.read(INDEX)
    except ObjectNotFound:
        return None
    if not found.startswith(START.encode()):
        raise OutputExists(
            str(store.place.join(INDEX)),
            "it is not a page of this command",
            "Choose another --output.",
        )
    return found
