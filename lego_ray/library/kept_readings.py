"""What refreshes read of headers, kept for the next one, which reads only adapters that changed.

<output>/.lego-ray/readings/<sha256>.json.z    readings, by the sha256 of the file's own bytes

A reading is used where a listing shows that none of its files was written since. If the kept file is
damaged, of other settings or of another release, the refresh reads every header and replaces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from logging import WARNING

from lego_ray import journal
from lego_ray.errors import AlreadyExists, LegoRayError, ObjectNotFound
from lego_ray.output.checkpoints.run_folder import FOLDER, READINGS_FOLDER
from lego_ray.output.manifest import versions
from lego_ray.planning.recipe import digest_of
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.sources.readings import Readings
from lego_ray.sources.readings_file import LARGEST, UnusableReadings, decoded, encoded
from lego_ray.storage.base import ObjectInfo, Store
from lego_ray.storage.links import lies_inside

_OURS = re.compile(rf"{re.escape(READINGS_FOLDER)}[0-9a-f]{{64}}\.json\.z")


def recall_readings(store: Store, library: LibraryRecipe, readings: Readings) -> int:
    """Fills readings with those that an earlier refresh kept, if they can be used.

    Args:
        store: The library's output.
        library: The library.
        readings: Those of this refresh.

    Returns:
        Bytes that were read.
    """
    before = store.bytes_read
    try:
        for info in _files(store):
            if info.size > LARGEST:
                raise UnusableReadings(f"it has {info.size} bytes")
            data = store.read(info.key, info.version)
            readings.recall(decoded(data, _settings(library)))
            break
    except ObjectNotFound:  # another refresh has just replaced it
        pass
    except (UnusableReadings, LegoRayError) as error:
        journal.note("kept readings not used", "", WARNING, file=READINGS_FOLDER, reason=str(error))
    return store.bytes_read - before


def keep_readings(store: Store, library: LibraryRecipe, readings: Readings) -> None:
    """Keeps readings in place of those of earlier refreshes, if they are others.

    That they cannot be written is noted, and no error: the library is up to date.

    Args:
        store: The library's output.
        library: The library.
        readings: Those of this refresh.
    """
    kept = readings.to_keep()
    if kept is None:
        return
    try:
        if not lies_inside(store, FOLDER.rstrip("/")):
            return  # what is kept is deleted later, and must not be where a link leads
        data = encoded(kept, _settings(library))
        for old in _files(store):
            store.delete(old.key)
        with contextlib.suppress(AlreadyExists):  # another refresh, which read the same
            store.create(f"{READINGS_FOLDER}{hashlib.sha256(data).hexdigest()}.json.z", data)
    except (UnusableReadings, LegoRayError) as error:
        journal.note("readings not kept", "", file=READINGS_FOLDER, reason=str(error))


def _files(store: Store) -> list[ObjectInfo]:
    with contextlib.suppress(ObjectNotFound):
        return [info for info in store.list(READINGS_FOLDER) if _OURS.fullmatch(info.key)]
    return []


def _settings(library: LibraryRecipe) -> str:
    """What a reading depends on beside the files that it is of."""
    return digest_of([versions(), library.full_weights, bool(library.base)])
