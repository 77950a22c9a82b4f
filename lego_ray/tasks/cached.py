"""Tensors of adapters that are kept in memory, for runs that merge the same adapters many times."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace

from lego_ray.tasks.base_weights import BaseWeights
from lego_ray.tasks.read import Extraction, Read, pool_read, read_ahead
from lego_ray.tasks.values import SolveTask, SourceKey, SourceSlice

_Key = tuple[SourceKey, str]


class ReadCache:
    """Tensors as they are stored, those used last first to stay; any number of threads may ask.

    It gives the bits that `extract_task` gives. Weights of a base model are not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        """Holds nothing yet.

        Args:
            most_bytes: Most bytes of tensors to keep.
        """
        self._most_bytes = most_bytes
        self._held = 0
        self._tensors: OrderedDict[_Key, tuple[memoryview, str]] = OrderedDict()
        self._lock = threading.Lock()

    def extract(self, task: SolveTask) -> Extraction:
        """As `solve.extract_task`, reading only the adapters that are not kept.

        Args:
            task: What to extract. The caller sees to it that torch has one thread.

        Raises:
            SourceChanged: If an adapter that is read is not the one that was scanned.
            StorageError: If a source cannot be read.
        """
        started = time.perf_counter()
        found: dict[SourceKey, Read] = {}
        missing: list[SourceSlice] = []
        for source in task.sources:
            kept = self._kept(source)
            if kept is None:
                missing.append(source)
            else:
                found[source.key] = _joined(found.get(source.key), kept)
        bytes_read = requests = 0
        for source, read in read_ahead(missing, task.plan.ahead):
            bytes_read += read.bytes_read
            requests += read.requests
            self._keep(source, read)
            found[source.key] = _joined(found.get(source.key), read)
        base = BaseWeights()
        extraction = pool_read(task, found, task.work.work.prepare, base)
        extraction.bytes_read = bytes_read + base.bytes_read
        extraction.requests = requests + base.requests
        extraction.seconds = time.perf_counter() - started
        return extraction

    def _kept(self, source: SourceSlice) -> Read | None:
        """All tensors of a source, or None if one of them is not kept."""
        names = [span.name for span in source.spans()]
        with self._lock:
            if any((source.key, name) not in self._tensors for name in names):
                return None
            for name in names:
                self._tensors.move_to_end((source.key, name))
            tensors = {name: self._tensors[source.key, name] for name in names}
        return Read(
            {name: data for name, (data, _) in tensors.items()},
            {name: digest for name, (_, digest) in tensors.items()},
            0,
            0,
        )

    def _keep(self, source: SourceSlice, read: Read) -> None:
        # Copied, because a view of a read of several tensors holds all of that read.
        copies = {
            name: memoryview(bytes(data))
            for name, data in read.buffers.items()
            if data.nbytes <= self._most_bytes
        }
        with self._lock:
            for name, data in copies.items():
                key = (source.key, name)
                if key in self._tensors:
                    continue
                self._tensors[key] = (data, read.hashes[name])
                self._held += data.nbytes
            while self._held > self._most_bytes:
                _, (data, _) = self._tensors.popitem(last=False)
                self._held -= data.nbytes


def _joined(before: Read | None, read: Read) -> Read:
    """What was read of one file in two slices of a task."""
    if before is None:
        return read
    return replace(
        read,
        buffers={**before.buffers, **read.buffers},
        hashes={**before.hashes, **read.hashes},
    )
