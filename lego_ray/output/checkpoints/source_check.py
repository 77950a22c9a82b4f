"""Whether a checkpoint was made of the bytes that the adapters have now."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lego_ray.formats.identity import is_sampled_whole
from lego_ray.output.checkpoints.format import Checkpoint
from lego_ray.output.checkpoints.run_folder import UnreadableCheckpoint
from lego_ray.sources.contents import spans_of, stream_hashes
from lego_ray.sources.recorded import folder_of

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan


class SourceCheck:
    """Holds checkpoints of a plan against its adapters; each that was written again is read once."""

    def __init__(self, plan: Plan) -> None:
        """Looks at nothing yet.

        Args:
            plan: The plan that is run.
        """
        self._plan = plan
        self._hashes: dict[int, Mapping[str, str]] = {}
        self._read: dict[int, int] = {}
        self._locks = [threading.Lock() for _ in plan.adapters]

    @property
    def bytes_read(self) -> int:
        """Bytes of adapters that were read."""
        return sum(self._read.values())

    def check(self, checkpoint: Checkpoint, *, named_after_marks: bool) -> None:
        """Passes a checkpoint of which every tensor read is what the plan's adapters have now.

        Args:
            checkpoint: The checkpoint.
            named_after_marks: Whether it lies under a digest that has the present marks in it.

        Raises:
            UnreadableCheckpoint: If it is of other bytes.
            SourceChanged: If an adapter that is read for that is not the one that was scanned.
            StorageError: If an adapter cannot be read.
        """
        if named_after_marks:
            return
        for number, tensors in checkpoint.result.tensor_hashes.items():
            if not 0 <= number < len(self._plan.adapters):
                raise UnreadableCheckpoint(f"the plan has no adapter {number}")
            adapter = self._plan.adapters[number]
            was_read = checkpoint.sources.get(number)
            # Checkpoints of before that have the version alone.
            same = [(adapter.uri, mark) for mark in (adapter.mark, adapter.version)]
            if is_sampled_whole(adapter.n_bytes) or was_read in same:
                continue
            now = self._now(number)
            if any(now.get(name) != was for name, was in tensors):
                raise UnreadableCheckpoint(f"{adapter.uri} has other weights than it was made of")

    def _now(self, number: int) -> Mapping[str, str]:
        """Hashes of an adapter's tensors as they are; read once, however many ask."""
        with self._locks[number]:
            if number not in self._hashes:
                adapter = self._plan.adapters[number]
                store = folder_of(adapter).open()
                self._hashes[number] = stream_hashes(
                    store, adapter.weights_key, spans_of(adapter), adapter.version or None
                )
                self._read[number] = store.bytes_read
            return self._hashes[number]
