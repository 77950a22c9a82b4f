"""A lease on a place: of any number of processes that want to work there, one does.

It needs nothing of a store but create-only puts and the times the store itself gives its objects, so
it works on S3 as on disk. No two computers' clocks are compared, and a store's own may be wrong as
long as it does not jump. What a lease cannot do is stop a process that was taken for dead and only
slept: that one learns of it after its next beats. Nor can it stop one that lives and is said to have
ended, as by a cluster that does not reach it. So it saves work, and what its holder writes must
carry the lease's number where a second one's work could be spoiled; see `catalog.tenure`.

<folder>lease-00000001.json     who holds it; of several, the highest number does
<folder>beat-00000001-00000007  a sign of life, replaced by the next
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType, TracebackType

from lego_ray.errors import (
    AlreadyExists,
    MalformedAdapter,
    ObjectNotFound,
    RunFailed,
    StorageError,
)
from lego_ray.formats.strict_json import parse_object
from lego_ray.storage.base import ObjectInfo, Store

BEAT = timedelta(seconds=15)
# Twenty beats: a store that is away for minutes must not make a living holder look dead.
STALE_AFTER = timedelta(minutes=5)

_LEASE = re.compile(r"lease-(\d{8})\.json")
_BEAT = re.compile(r"beat-(\d{8})-\d{8}")
_LOOK = re.compile(r"look-[0-9a-f]{16}")
# Where a holder says what others can ask by whether its process has ended.
_KNOWN_BY = "known_by"
_NOT_SHOWN = ("token", _KNOWN_BY)
# Each try but the first means that the folder changed in the instant it was looked at.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is in the folder.

    Attributes:
        leases: Lease objects by number.
        alive_at: The last sign of life of the highest, by the store's clock; None if it does not say.
        others: What else a lease may have left: signs of life of one that is gone, and what a look at
            the store's time is taken by.
    """

    leases: Mapping[int, ObjectInfo]
    alive_at: datetime | None
    others: tuple[ObjectInfo, ...] = ()

    @property
    def number(self) -> int:
        """Number of the lease that counts; 0 if there is none."""
        return max(self.leases, default=0)


class Lease:
    """A lease, taken with `with` if `take` says it may be.

    Args:
        store: Where it is kept.
        folder: Prefix of its objects, ending in a slash.
        owner: Who asks for it, in words that help a person find that process.
        beat: How often a holder gives a sign of life.
        stale_after: After how long a silence a holder counts as dead, as the store measures it. Much
            longer than `beat`, and than the clocks of one store's servers are apart.
        has_ended: Says of what a holder gave as `known_by` whether that process is known to have ended.
            Such a holder is taken over from at once.
        above: Numbers up to this are not used again. Asked whenever one is chosen: whoever keeps the
            numbers of former leases must learn of one that began and ended a moment ago.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        owner: Mapping[str, str],
        *,
        beat: timedelta = BEAT,
        stale_after: timedelta = STALE_AFTER,
        above: Callable[[], int] = lambda: 0,
        has_ended: Callable[[Mapping[str, str]], bool] = lambda known_by: False,
    ) -> None:
        self._store = store
        self._folder = folder
        self._owner = owner
        self._beat = beat
        self._stale_after = stale_after
        self._above = above
        self._has_ended = has_ended
        self._number = 0
        self._done = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def number(self) -> int:
        """Its number once it was taken: higher than those of all leases there and than `above`."""
        return self._number

    def holder(self) -> dict[str, str] | None:
        """Says who holds it and is alive, in that process's words; None if it can be had.

        Writes nothing if there is no lease; else one small object, deleted at once, to learn the
        store's time.
        """
        seen = self._look()
        return None if self._is_free(seen) else self._holder_of(seen)

    def last_holder(self) -> dict[str, str] | None:
        """Says who holds it, alive or not, and the time of the last sign of life; writes nothing."""
        seen = self._look()
        return {**self._owner_of(seen.number), **_sign_of(seen)} if seen.number else None

    def take(self, known_by: Mapping[str, str] = MappingProxyType({})) -> dict[str, str] | None:
        """Takes the lease, over from a holder that is dead if need be, and begins to give signs.

        Args:
            known_by: What others can ask by whether this process has ended; see `has_ended`.

        Returns:
            None if it is held now; else who holds it.
        """
        for _ in range(_TRIES):
            seen = self._look()
            if not self._is_free(seen):
                return self._holder_of(seen)
            number = max(seen.number, self._above()) + 1
            try:
                self._create(number, known_by)
            except AlreadyExists:
                return self._owner_of(number)
            # Whoever looked long ago may come with a number that was free when it looked. It counts
            # only if nothing else happened since; of two such, the later sees the other.
            now = dict(self._look().leases)
            mine = now.pop(number, None)
            if mine is not None and now == dict(seen.leases) and self._above() < number:
                self._number = number
                self._tidy(below=number)
                self._forget_looks(mine.modified_at)
                self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
                self._thread.start()
                return None
            self._store.delete(self._key(number))
        others = self._look()
        return self._owner_of(others.number) if others.number else {"owner": "unknown"}

    def sweep(self, also: Callable[[], None]) -> None:
        """Removes what dead holders left, if there is any and the lease is free.

        For a caller that finds nothing to do; taking the lease for work sweeps too.

        Args:
            also: Called while the lease is held, to remove what they left elsewhere.
        """
        seen = self._look()
        if seen.leases or seen.others:
            with leased(self) as holder:
                if holder is None:
                    also()

    def check(self) -> None:
        """Raises RunFailed if another has taken it over."""
        if self._lost.is_set():
            holder = self._owner_of(self._look().number)
            raise RunFailed(
                f"{self._store.uri}/{self._folder.rstrip('/')}",
                "another process took this one for dead, after a silence or by word of its cluster, and "
                f"{told(holder)} has taken over",
                "Finished work is kept; leave the rest to that process.",
            )

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            # A store that fails now leaves it to grow stale.
            with contextlib.suppress(StorageError):
                self._tidy(below=self._number + 1)

    def _live(self) -> None:
        beats = missed = 0
        while not self._done.wait(self._beat.total_seconds()):
            with contextlib.suppress(StorageError):
                leases = self._look().leases
                gone = self._number not in leases or max(leases) != self._number
                missed = missed + 1 if gone else 0
                if missed == 2:  # a single time it may be one that is about to stand back
                    self._lost.set()
                    return
                beats += 1
                self._store.create(self._beat_key(beats), b"")
                self._store.delete(self._beat_key(beats - 1))

    def _look(self) -> _Seen:
        leases: dict[int, ObjectInfo] = {}
        signs: dict[int, list[datetime | None]] = {}
        others: list[ObjectInfo] = []
        for info in self._store.list(self._folder):
            name = info.key[len(self._folder) :]
            if match := _LEASE.fullmatch(name) or _BEAT.fullmatch(name):
                number = int(match[1])
                signs.setdefault(number, []).append(info.modified_at)
                if name.startswith("lease-"):
                    leases[number] = info
                else:
                    others.append(info)
            elif _LOOK.fullmatch(name):
                others.append(info)
        times = signs.get(max(leases, default=0), [])
        known = [time for time in times if time is not None]
        return _Seen(leases, max(known) if known else None, tuple(others))

    def _is_free(self, seen: _Seen) -> bool:
        """Whether nobody holds it who may be alive."""
        return not seen.number or self._is_over(seen.number) or self._is_silent(seen)

    def _is_over(self, number: int) -> bool:
        """Whether the process that holds it is known to have ended."""
        known_by = self._read(number).get(_KNOWN_BY)
        if not isinstance(known_by, dict) or not known_by:
            return False
        return self._has_ended({name: str(value) for name, value in known_by.items()})

    def _is_silent(self, seen: _Seen) -> bool:
        if seen.alive_at is None:
            return False
        key = f"{self._folder}look-{secrets.token_hex(8)}"
        self._store.create(key, b"")
        try:
            now = self._store.stat(key).modified_at
        finally:
            self._store.delete(key)
        return now is not None and now - seen.alive_at > self._stale_after

    def _create(self, number: int, known_by: Mapping[str, str]) -> None:
        about: dict[str, object] = {**self._owner, "token": secrets.token_hex(8)}
        if known_by:
            about[_KNOWN_BY] = dict(known_by)
        self._store.create(self._key(number), (json.dumps(about) + "\n").encode())

    def _holder_of(self, seen: _Seen) -> dict[str, str]:
        """A living holder, its last sign of life, and when it may be taken over from if it was the last.

        Both times are the store's.
        """
        holder = {**self._owner_of(seen.number), **_sign_of(seen)}
        if seen.alive_at is not None:
            free_at = seen.alive_at + self._stale_after
            holder["may_be_taken_over_at"] = free_at.isoformat(timespec="seconds")
        return holder

    def _owner_of(self, number: int) -> dict[str, str]:
        about = self._read(number) or {"owner": "unknown"}
        return {name: str(value) for name, value in about.items() if name not in _NOT_SHOWN}

    def _read(self, number: int) -> dict[str, object]:
        """What its holder wrote; empty if it has just ended, or others wrote over it."""
        try:
            return parse_object(self._store.read(self._key(number)), self._key(number))
        except (ObjectNotFound, MalformedAdapter):
            return {}

    def _tidy(self, below: int) -> None:
        """Deletes what belongs to lower numbers, the lowest lease first and each after its beats."""
        keys = []
        for info in self._store.list(self._folder):
            name = info.key[len(self._folder) :]
            if match := _LEASE.fullmatch(name) or _BEAT.fullmatch(name):
                keys.append((int(match[1]), name.startswith("lease-"), info.key))
        for number, _, key in sorted(keys):
            if number < below:
                self._store.delete(key)

    def _forget_looks(self, now: datetime | None) -> None:
        """Deletes what looks left that were killed; those at it now are gone within a request or two."""
        if now is None:
            return
        for info in self._look().others:
            name = info.key[len(self._folder) :]
            old = info.modified_at is not None and now - info.modified_at > self._stale_after
            if _LOOK.fullmatch(name) and old:
                self._store.delete(info.key)

    def _key(self, number: int) -> str:
        return f"{self._folder}lease-{number:08d}.json"

    def _beat_key(self, beats: int) -> str:
        return f"{self._folder}beat-{self._number:08d}-{beats:08d}"


def _sign_of(seen: _Seen) -> dict[str, str]:
    if seen.alive_at is None:
        return {}
    return {"last_sign_at": seen.alive_at.isoformat(timespec="seconds")}


def told(owner: Mapping[str, str]) -> str:
    """An owner in one phrase."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in owner.items())


@contextlib.contextmanager
def leased(
    lease: Lease, known_by: Mapping[str, str] = MappingProxyType({})
) -> Iterator[dict[str, str] | None]:
    """Takes a lease for a block, and gives None, or gives who holds it.

    Args:
        lease: The lease.
        known_by: As for `Lease.take`.
    """
    holder = lease.take(known_by)
    if holder is not None:
        yield holder
        return
    with lease:
        yield None
