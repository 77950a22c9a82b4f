"""A lease: one holder of any number who ask, found dead by the store's clock alone."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lego_ray.errors import RunFailed
from lego_ray.storage.base import Store
from lego_ray.storage.file import FileStore
from lego_ray.storage.lease import Lease, leased
from lego_ray.storage.open import open_store
from tests.storage.leases import fall_silent

FOLDER = ".lego-ray/refresh/"
# Long after any test of this file.
HOUR = timedelta(hours=1)


@pytest.fixture(
    params=[
        "disk",
        pytest.param("s3", marks=pytest.mark.s3),
        "gs",
        pytest.param("az", marks=pytest.mark.az),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "disk":
        yield FileStore(tmp_path / "store")
    else:
        fixture = {"s3": "s3_bucket", "gs": "gcs_bucket", "az": "az_container"}[request.param]
        yield open_store(f"{request.param}://{request.getfixturevalue(fixture)}/library")


_made: list[Lease] = []


def lease(store: Store, name: str, stale_after: timedelta = HOUR, **options: Any) -> Lease:
    made = Lease(store, FOLDER, {"host": name}, stale_after=stale_after, **options)
    _made.append(made)
    return made


@pytest.fixture(autouse=True)
def _none_goes_on() -> Iterator[None]:
    """Ends those that a test took and never let go of, as a dead process would."""
    yield
    for made in _made:
        fall_silent(made)
    _made.clear()


def who(answer: dict[str, str] | None) -> dict[str, str] | None:
    """An answer without its times, which only tell of a living holder."""
    times = {"last_sign_at", "may_be_taken_over_at"}
    return answer and {name: value for name, value in answer.items() if name not in times}


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list()]


def test_one_holds_it_the_other_learns_who(store: Store) -> None:
    assert lease(store, "b").holder() is None
    assert keys(store) == []
    with leased(lease(store, "a")) as holder:
        assert holder is None
        assert keys(store) == [f"{FOLDER}lease-00000001.json"]
        found = lease(store, "b").holder()
        assert found is not None
        assert who(found) == {"host": "a"}
        last, free = (
            datetime.fromisoformat(found[name]) for name in ("last_sign_at", "may_be_taken_over_at")
        )
        assert free - last == HOUR
        assert lease(store, "b").last_holder() == {
            "host": "a",
            "last_sign_at": found["last_sign_at"],
        }
        with leased(lease(store, "b")) as other:
            assert other == found
        assert keys(store) == [f"{FOLDER}lease-00000001.json"]
    assert keys(store) == []
    with leased(lease(store, "b")) as holder:
        assert holder is None


@pytest.mark.parametrize("held", [b"[" * 100_000, b"{", b"\xff", b"[]", b'{"host": "\\ud800"}'])
def test_a_lease_that_cannot_be_read_is_held_by_someone(held: bytes, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    store.create(f"{FOLDER}lease-00000001.json", held)
    assert who(lease(store, "b").holder()) == {"owner": "unknown"}


def test_it_is_let_go_of_when_the_block_fails(store: Store) -> None:
    with pytest.raises(ValueError, match="work"), leased(lease(store, "a")):
        raise ValueError("work")
    assert keys(store) == []


def test_of_many_that_ask_at_once_one_gets_it(store: Store) -> None:
    barrier = threading.Barrier(8)

    def ask(number: int) -> dict[str, str] | None:
        barrier.wait()
        return lease(store, str(number)).take()

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    won = [number for number, answer in enumerate(answers) if answer is None]
    assert len(won) == 1
    assert all(who(answer) in (None, {"host": str(won[0])}) for answer in answers)


def test_a_silent_holder_is_taken_over_from(store: Store) -> None:
    dead = lease(store, "dead", beat=HOUR)
    assert dead.take() is None
    time.sleep(2.1)  # two of the seconds that S3 counts in
    with leased(lease(store, "b", timedelta(seconds=1), beat=HOUR)) as holder:
        assert holder is None
        assert keys(store) == [f"{FOLDER}lease-00000002.json"]
        assert json.loads(store.read(f"{FOLDER}lease-00000002.json"))["host"] == "b"
    assert keys(store) == []


def test_beats_keep_it_and_one_that_slept_learns_of_its_successor(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    beat = timedelta(milliseconds=20)
    with leased(lease(store, "a", beat=beat)):
        until(lambda: any("beat-00000001" in key for key in keys(store)))
        # The lease is old, and the last beat is not.
        age(tmp_path / FOLDER / "lease-00000001.json")
        assert who(lease(store, "b").take()) == {"host": "a"}

    sleeper = lease(store, "sleeper", beat=beat)
    with leased(sleeper):
        sleeper.check()
        # As after a takeover, which its beats keep from happening here.
        store.create(f"{FOLDER}lease-00000002.json", b'{"host": "b"}')
        until(sleeper._lost.is_set)
        with pytest.raises(RunFailed, match="host b has taken over"):
            sleeper.check()
    assert keys(store) == [f"{FOLDER}lease-00000002.json"]  # not the sleeper's to let go of


def test_one_that_looked_long_ago_stands_back(tmp_path: Path) -> None:
    """It found a dead one, slept, and meanwhile that was taken over from, worked and let go of."""
    store = FileStore(tmp_path)
    lease(store, "dead").take()
    age(tmp_path / FOLDER / "lease-00000001.json")
    slow = lease(store, "slow")
    looked = slow._look
    stay: list[bool] = []

    def looks_then_sleeps() -> object:
        seen = looked()
        if not stay:
            stay.append(True)
            with leased(lease(store, "quick")) as holder:
                assert holder is None
            assert lease(store, "third").take() is None
        return seen

    slow._look = looks_then_sleeps  # type: ignore[method-assign, assignment]
    assert who(slow.take()) == {"host": "third"}
    assert keys(store) == [f"{FOLDER}lease-00000001.json"]
    assert who(lease(store, "fourth").holder()) == {"host": "third"}


def age(path: Path, seconds: float = 2 * HOUR.total_seconds()) -> None:
    """Makes a file as old as a holder's that died long ago."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def until(holds: object) -> None:
    deadline = time.monotonic() + 60
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)
