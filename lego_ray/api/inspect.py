"""Says what files are, adapters or not, from their headers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import fspath

from lego_ray.arguments import checked
from lego_ray.errors import AccessDenied
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.arguments import Uri
from lego_ray.planning.run_names import is_training_file
from lego_ray.planning.scan_limits import checked_limits
from lego_ray.planning.trainer_runs import Candidate, settle
from lego_ray.records import TableRecord, names_of
from lego_ray.sources.adapter_headers import read_found
from lego_ray.sources.expand import expanded
from lego_ray.sources.find import Found, find, open_file_or_folder, refused_folder
from lego_ray.sources.headers import Counted, candidate_of, untold, with_notes
from lego_ray.sources.inspection import (
    NO_ADAPTER,
    PASSED_OVER,
    REFUSED,
    TAKEN,
    Inspection,
    inspection_of,
)
from lego_ray.sources.listing import THREADS, is_named
from lego_ray.sources.shared_headers import SharedHeaders
from lego_ray.sources.spent import Spent
from lego_ray.storage.base import Store


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class InspectRecord(TableRecord):
    """What lies at a place.

    Attributes:
        place: As it was given.
        found: What each file or directory is that may be an adapter, by URI; see `Inspection`.
        taken: How many of them a merge of the place takes with default options.
        refused: How many it refuses.
        passed_over: How many are earlier checkpoints of training runs.
        others: How many are not adapters.
        warnings: What was passed over in lists and collections, and what could not be decided.
        bytes_read: Bytes that the call read.
        seconds: How long the call took.
    """

    rows_of = "found"
    columns = names_of(Inspection)

    place: str
    found: tuple[Inspection, ...]
    taken: int
    refused: int
    passed_over: int
    others: int
    warnings: tuple[str, ...]
    bytes_read: int
    seconds: float

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.place}: {self.taken} taken, {self.refused} refused, "
            f"{self.passed_over} passed over, {self.others} not adapters>"
        )


@checked
def inspect(
    place: Uri,
    *,
    scan_limits: Mapping[str, float] | None = None,
    progress: Counted = untold,
) -> InspectRecord:
    """Says what a file, or each file of a folder, is: an adapter or not, and why a merge leaves it out.

    Reads headers only, as a scan does, and takes nothing: what is refused is described too, with the
    reason that a plan gives.

    Args:
        place: A file of any type, a directory, `s3://bucket/prefix`, `hf://owner/name[@revision]`, or
            any other source of `merge`.
        scan_limits: As for `merge`.
        progress: Called with the number of files read, and of those there are to read.

    Returns:
        What was found; see `InspectRecord`, which is read like a dictionary too.

    Raises:
        ObjectNotFound: If there is nothing there.
        StorageError: If it cannot be read.
    """
    started = time.perf_counter()
    spent = Spent(checked_limits(scan_limits))
    given = expanded([fspath(place)])
    stores: list[Store] = []
    found: list[tuple[Found, bool]] = []
    others: list[Inspection] = []
    for each in given.places:
        store, only = open_file_or_folder(each)
        stores.append(store)

        def denied(key: str, error: AccessDenied, store: Store = store) -> None:
            refusal = refused_folder(store, key, error)
            others.append(_shown_only(refusal.uri, REFUSED, refusal.reason))

        here = [(item, is_named(item, only)) for item in find(store, only, spent.listed, denied)]
        if only and not here:
            others.append(_other(store, only))
        for item, named in here:
            spent.found(store.uri)
            if refusal := item.refusal():
                others.append(_shown_only(refusal.uri, REFUSED, refusal.reason))
            else:
                found.append((item, named))
    shared = SharedHeaders()

    def read(each: tuple[Found, bool]) -> tuple[Inspection, Candidate | None]:
        reading = read_found(each[0], "refuse", shared)
        spent.read(each[0].store)
        return inspection_of(reading), candidate_of(reading, *each)

    inspections: dict[str, Inspection] = {}
    candidates: list[Candidate] = []
    files_of: dict[str, Found] = {}
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        results = zip(found, threads.map(read, found), strict=True)
        for done, ((item, _), (inspection, candidate)) in enumerate(results, 1):
            progress(done, len(found))
            inspections[inspection.uri] = inspection
            if candidate is not None:
                candidates.append(candidate)
                files_of[inspection.uri] = item
    warnings = list(given.warnings)
    inspections |= {
        each.uri: each for each in _settled(candidates, inspections, files_of, warnings)
    }
    inspections |= {each.uri: each for each in others}
    shown = tuple(inspections[uri] for uri in sorted(inspections))
    return InspectRecord(
        place=fspath(place),
        found=shown,
        taken=sum(each.status == TAKEN for each in shown),
        refused=sum(each.status == REFUSED for each in shown),
        passed_over=sum(each.status == PASSED_OVER for each in shown),
        others=sum(each.status == NO_ADAPTER for each in shown),
        warnings=tuple(warnings),
        bytes_read=sum(store.bytes_read for store in stores),
        seconds=time.perf_counter() - started,
    )


def _settled(
    candidates: list[Candidate],
    inspections: Mapping[str, Inspection],
    files_of: Mapping[str, Found],
    warnings: list[str],
) -> Iterator[Inspection]:
    """Those that are checkpoints of a run, and those that have notes, as a scan has them."""
    runs = settle(candidates, "last")
    warnings += [each.text for each in runs.doubts]
    for run in runs.passed_over:
        for uri in run.checkpoints:
            why = f"it is a checkpoint of {run.adapter}, {run.why}; --checkpoints all takes it too"
            yield replace(inspections[uri], status=PASSED_OVER, reason=why)
    adapters = [each.found for each in candidates if isinstance(each.found, AdapterRecord)]
    passed_over = {uri for run in runs.passed_over for uri in run.checkpoints}
    for adapter in with_notes((a for a in adapters if a.uri not in passed_over), files_of):
        if adapter.notes:
            yield replace(inspections[adapter.uri], notes=adapter.notes)


def _other(store: Store, name: str) -> Inspection:
    """A file of a type that holds no adapter."""
    info = store.stat(name)
    kind = (
        "it is a file that a trainer goes on from, or leaves beside an adapter"
        if is_training_file(name)
        else "it is not a type of file that adapters are in, such as .safetensors"
    )
    shown = _shown_only(f"{store.uri.rstrip('/')}/{name}", NO_ADAPTER, kind)
    return replace(shown, n_bytes=info.size)


def _shown_only(uri: str, status: str, reason: str) -> Inspection:
    return Inspection(uri=uri, status=status, reason=reason, tags={}, kinds={})
