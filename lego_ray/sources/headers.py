"""Reads the headers of the adapters under some sources; weights only where these leave a doubt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast

from lego_ray.formats.lone import FullWeights
from lego_ray.formats.peft_base import COPIES, INITIAL_FOLDERS
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.arguments import checked_checkpoints
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.run_names import run_name, says_its_number, step_of
from lego_ray.planning.scan_limits import NO_LIMITS, ScanLimits
from lego_ray.planning.selection import of_ids
from lego_ray.planning.trainer_runs import Candidate, settle
from lego_ray.sources.adapter_headers import Reading, read_found
from lego_ray.sources.beside import notes_on, unread
from lego_ray.sources.contents import read_content
from lego_ray.sources.find import LONE_NAMES, Found
from lego_ray.sources.identities import NOTHING, Known, settled, to_read
from lego_ray.sources.listing import FAR_THREADS, THREADS, list_sources
from lego_ray.sources.readings import Readings
from lego_ray.sources.shared_headers import SharedHeaders
from lego_ray.sources.spent import Spent
from lego_ray.sources.with_base import WithBase
from lego_ray.storage.places import Place

_MATCHES_NOTHING = "--exclude {!r} matches nothing that lies under the sources"
# Called with (done, total).
Counted = Callable[[int, int], None]


def untold(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found and what it cost.

    Attributes:
        inventory: Adapters, taken and refused.
        bytes_read: Bytes fetched.
        requests: Read requests made.
    """

    inventory: Inventory
    bytes_read: int
    requests: int


def scan_sources(
    sources: Sequence[str | Place],
    *,
    exclude: Sequence[str] = (),
    full_weights: str = "refuse",
    checkpoints: str = "last",
    skip: Iterable[str | Place] = (),
    progress: Counted = untold,
    known: Known = NOTHING,
    again: bool = False,
    limits: ScanLimits = NO_LIMITS,
    base: str = "",
    readings: Readings | None = None,
) -> Scan:
    """Reads the headers of every adapter at or below some places.

    An adapter is read whole, once, only where headers cannot tell which one it is: its file was written
    again since a record of `known`, or two of them have the same headers and samples.

    Args:
        sources: Directories, `s3://` prefixes or `hf://` repositories, or weights files in them; lists
            of these (`@list.txt`); or collections of the Hub (`hf://collections/owner/slug`).
        exclude: Glob patterns; an adapter is left out if one matches its name, its path below the
            source, or its URI; or if it is the first digits of its id, six or more.
        full_weights: The recipe's choice for weights that are not low-rank.
        checkpoints: `last` to take one adapter per training run, its final one or else its last
            checkpoint; `all` to take every checkpoint too. What is a source by itself is always taken.
        skip: Places not to look at, such as the output of the merge, or their normalized URIs.
        progress: Called with the number of adapters read, and of those there are to read.
        known: What records of earlier runs say of adapters.
        again: Whether the same places were scanned before in this run. One that is gone is passed over
            then, because the run goes on without its adapters and names them.
        limits: The most that the scan may list and read. Adapters that are read whole are not counted.
        base: Where the base model is, for adapters whose update is computed with it; read if one is.
        readings: What earlier scans of this run read; files that are still the same are not read again.

    Raises:
        InvalidOption: If `checkpoints` is neither.
        ScanLimitReached: If more lies there than the limits allow.
        UnusableBase: If an adapter needs the base model, and its weights are not read.
        SourceChanged: If a file of the base model changes meanwhile.
        ObjectNotFound: If a source does not exist.
        StorageError: If a source cannot be read.
    """
    checkpoints = checked_checkpoints(checkpoints)
    mode = cast(FullWeights, full_weights.partition(":")[0])
    spent = Spent(limits)
    listing = list_sources(sources, spent, exclude=exclude, skip=tuple(skip), again=again)
    found = listing.found
    shared = SharedHeaders()
    candidates: list[Candidate] = []
    files_of: dict[str, Found] = {}
    with_base = WithBase(base)
    initial = {(id(f.store), f.folder): f for f, _ in found if f.config and f.weights}

    def read(each: tuple[Found, bool]) -> Candidate | None:
        item, named = each
        inside = (initial.get((id(item.store), _inside(item, name))) for name in INITIAL_FOLDERS)
        before = next((f for f in inside if f), None)
        reading = readings.of(item, before) if readings else None
        if reading is None:
            reading = read_found(item, mode, shared, with_base=with_base.is_given, initial=before)
            spent.read(item.store)
            if readings is not None:
                readings.keep(reading, before)
        reading = replace(reading, result=with_base.resolved(reading.result))
        return candidate_of(reading, item, named)

    is_far = any(not item.place.is_local for item, _ in found)
    with ThreadPoolExecutor(max_workers=FAR_THREADS if is_far else THREADS) as threads:
        results = threads.map(read, found)
        for done, ((item, _), candidate) in enumerate(zip(found, results, strict=True), 1):
            progress(done, len(found))
            if candidate is not None:
                candidates.append(candidate)
                files_of[candidate.found.uri] = item
        runs = settle(_without_copies(candidates, files_of), checkpoints)
        unclear = to_read(runs.adapters, known)
        whole = dict(zip((a.uri for a in unclear), threads.map(read_content, unclear), strict=True))
    adapters = list(with_notes(settled(runs.adapters, known, whole), files_of))
    excluded = of_ids(adapters, listing.idle)
    kept = [adapter for adapter in adapters if adapter.adapter_id not in excluded.values()]
    idle = (_MATCHES_NOTHING.format(each) for each in listing.idle if each not in excluded)
    inventory = Inventory.of(kept, (*listing.refused, *runs.refused))
    more = whole.values()
    return Scan(
        inventory=replace(
            inventory,
            passed_over=runs.passed_over,
            doubts=runs.doubts,
            warnings=(*listing.warnings, *idle, *with_base.warnings()),
            left_out=listing.left_out + len(adapters) - len(kept),
        ),
        bytes_read=sum(s.bytes_read for s in listing.stores)
        + sum(e.bytes_read for e in more)
        + with_base.bytes_read,
        requests=sum(s.requests for s in listing.stores)
        + sum(e.requests for e in more)
        + with_base.requests,
    )


def _without_copies(
    candidates: Iterable[Candidate], files_of: Mapping[str, Found]
) -> list[Candidate]:
    """Leaves out initial factors and copies of an adapter that lie in folders below it.

    Args:
        candidates: All that was read.
        files_of: Where each was found, by its URI.

    Returns:
        The others, and those that the user named; a note on each adapter says what was left out.
    """
    candidates = list(candidates)
    by_folder: dict[tuple[int, str], list[Candidate]] = defaultdict(list)
    for each in candidates:
        item = files_of[each.found.uri]
        by_folder[id(item.store), item.folder].append(each)
    gone: set[str] = set()
    noted: dict[str, str] = {}
    for each in candidates:
        record = each.found
        if not isinstance(record, AdapterRecord) or not _has_initial(record):
            continue
        item = files_of[record.uri]
        for name in (*INITIAL_FOLDERS, *COPIES):
            mine = by_folder.get((id(item.store), _inside(item, name)), ())
            gone |= {other.place for other in mine if not other.named}
            if name in COPIES and any(not other.named for other in mine):
                noted[each.place] = f"{noted.get(each.place, _COPIES)} {name}"
    return [
        replace(each, found=replace(each.found, notes=(*each.found.notes, noted[each.place])))
        if each.place in noted and isinstance(each.found, AdapterRecord)
        else each
        for each in candidates
        if each.place not in gone
    ]


_COPIES = "folders with the same adapter in another form were left out:"


def _has_initial(record: AdapterRecord) -> bool:
    return any(site.derived is not None and site.derived.initial for site in record.sites)


def _inside(found: Found, name: str) -> str:
    """The key of a folder in the directory of an adapter."""
    return f"{found.folder}/{name}".lstrip("/")


def candidate_of(reading: Reading, found: Found, named: bool) -> Candidate | None:
    """What was read, with what its path and its header say of a training run; None for no adapter.

    Args:
        reading: What was read.
        found: Where, as it was listed at first.
        named: Whether its source names it and not only a folder above it.
    """
    if reading.result is None:
        return None
    is_read = isinstance(reading.result, AdapterRecord)
    metadata = reading.table.metadata if is_read and reading.table else {}
    place, name = found.uri, ""
    if found.is_file and found.weights is not None:
        place, name = found.uri_of(found.weights), found.name_of(found.weights)
    below = len(found.root.rstrip("/")) + 1
    if named:  # then the last part of its path counts, which is the source's own
        last = place.removesuffix(f"/{name}") if name in LONE_NAMES else place
        below = min(below, last.rfind("/") + 1)
    return Candidate(
        place=place,
        found=reading.result,
        step=step_of(place, below, is_mlx=found.config is not None and bool(name)),
        named=named,
        of_trainer=found.is_trained_here or says_its_number(metadata, name),
        run_name=run_name(metadata),
    )


def with_notes(
    adapters: Iterable[AdapterRecord], files_of: Mapping[str, Found]
) -> Iterator[AdapterRecord]:
    """The adapters, each with notes on what lies beside it and is not merged.

    Args:
        adapters: What was read.
        files_of: Where each was found, by its URI.
    """
    adapters = list(adapters)
    in_folder = Counter((id(f.store), f.folder) for f in (files_of[a.uri] for a in adapters))
    for adapter in adapters:
        found = files_of[adapter.uri]
        notes: list[str] = []
        is_alone = not found.is_file or adapter.weights_key in LONE_NAMES
        if is_alone or in_folder[id(found.store), found.folder] == 1:
            notes += notes_on(found.beside, adapter.weights_key, is_alone=is_alone)
        if found.config is not None and not found.is_file:
            notes += unread(found.beside, adapter.weights_key)
        yield replace(adapter, notes=(*adapter.notes, *notes)) if notes else adapter
