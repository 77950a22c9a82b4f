"""A finished task's result, kept at the output by the worker that has it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lego_ray.errors import AlreadyExists, CatalogError, OutputExists, StorageError
from lego_ray.output.checkpoints.format import Checkpoint, encode_checkpoint
from lego_ray.output.checkpoints.run_folder import (
    ENDING,
    FOLDER,
    LARGEST_MARKER,
    MARKER,
    folder_uri,
)
from lego_ray.storage.base import Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.links import lies_inside
from lego_ray.storage.places import Place
from lego_ray.tasks.values import SolveTask, TaskResult

if TYPE_CHECKING:
    from lego_ray.catalog.msu_files import MsuTarget
    from lego_ray.planning.plan import Plan

# MSUs of a task that are worth a file; the driver joins the fewer ones of several tasks.
MANY = 1 << 17


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a worker needs to keep the result of a task; it travels with the task.

    Attributes:
        place: The output.
        marker: The bytes of the run's marker there. A folder of the same path on another machine has
            none, or another.
        plan: Digest of the plan that is run.
        work: Digest of its work.
        number: Which plan of the run that is, from 1.
        of_sites: Sites it has.
        folder: Which of the plan's digests its files lie under.
        msus: Where the lineage of a large task is written; None to hand it back.
        many: MSUs of a task that are worth a file.
    """

    place: Place
    marker: bytes
    plan: str
    work: str
    number: int
    of_sites: int
    folder: str
    msus: MsuTarget | None = None
    many: int = 0

    @classmethod
    def of(
        cls,
        plan: Plan,
        number: int,
        store: Store,
        marker: bytes = b"",
        msus: MsuTarget | None = None,
    ) -> Keeping:
        """What it takes for a plan's tasks.

        Args:
            plan: The plan that is run.
            number: As in the class.
            store: The output.
            marker: As in the class; empty if nothing travels.
            msus: As in the class.
        """
        folder = names_of(plan)[0]
        about = (plan.digest, plan.work, number, plan.n_sites, folder)
        return cls(store.place, marker, *about, msus, MANY)

    def keep(self, task: SolveTask, result: TaskResult) -> TaskResult:
        """Keeps a result, if this process sees the output and may write there.

        Args:
            task: The task.
            result: What it gave.

        Returns:
            The result, with `kept` if it is, and without its lineage if that is written; the driver does
            what is not done.
        """
        sources = {source.adapter: (source.uri, source.mark) for source in task.sources}
        try:
            store = self.place.open()
            if read_at_most(store, MARKER, LARGEST_MARKER) != self.marker:
                return result
            self.save(store, [site.site for site in task.plan.sites], result, sources)
        except (StorageError, OutputExists):
            return result
        return self._written(replace(result, kept=True))

    def _written(self, result: TaskResult) -> TaskResult:
        """The result with its rows of `msus` in files, if they are many and can be written from here."""
        if self.msus is None:
            return result
        from lego_ray.output.catalog_rows import msus_of, without_lineage

        sites = msus_of(result.sites)
        if sum(len(site.adapters) for site in sites) < self.many:
            return result
        try:
            files = self.msus.write(sites)
        except (CatalogError, StorageError):
            return result
        return replace(without_lineage(result), rows=files) if files else result

    def save(
        self,
        store: Store,
        covers: Collection[str],
        result: TaskResult,
        sources: Mapping[int, tuple[str, str]],
    ) -> None:
        """Writes a result's file.

        Args:
            store: The output.
            covers: Names of the sites the task was to solve.
            result: What it returned.
            sources: URI and store's mark of the adapters that it may have read, by number.

        Raises:
            OutputExists: If the folder is a link to somewhere else.
            StorageError: If it could not be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        read = {at: sources[at] for at in result.tensor_hashes}
        data = encode_checkpoint(
            Checkpoint(
                self.plan, self.number, self.of_sites, tuple(covers), result, now, read, self.work
            )
        )
        # Named after its sites, because another run may have cut its tasks in another way.
        name = hashlib.sha256("\n".join(covers).encode()).hexdigest()[:16]
        key = f"{FOLDER}{self.folder}/{result.index:05d}-{name}{ENDING}"
        if not lies_inside(store, key):
            raise OutputExists(
                store.uri,
                f"{FOLDER}{self.folder[:12]}... in it is a link to somewhere else",
                f"Delete the link in {folder_uri(store)}, or choose another --output.",
            )
        with contextlib.suppress(AlreadyExists):  # another run of this plan did the same
            store.create(key, data)


def names_of(plan: Plan) -> list[str]:
    """The digests that files of a plan may lie under; new ones go under the first.

    That of the work, so that a plan that only writes its sites in another way takes them on.
    """
    former = "" if plan.earlier else plan.former
    return [digest for digest in dict.fromkeys((plan.work, plan.digest, former)) if digest]
