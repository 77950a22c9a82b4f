"""A real S3 server for tests: the Ceph gateway of `tests.ceph_gateway`.

Fixtures:
- `s3_server`: the server, one for all pytest-xdist workers of a run.
- `s3_env`: the server, with the environment of this test pointing boto3 at it.
- `s3_bucket`: the name of a fresh bucket, with that environment set.

Without its programs the tests that use it are skipped, and fail where `CI` is set.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.ceph_gateway import S3Server, missing, new_home, start, stop


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if sentence := missing():
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    root = tmp_path_factory.getbasetemp()
    # Under xdist each worker has its own folder in the one of the run.
    shared = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    with _shared_server(shared / "s3-server") as server:
        yield server


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def s3_bucket(s3_env: S3Server) -> str:
    return s3_env.bucket()


@contextlib.contextmanager
def _shared_server(state: Path) -> Iterator[S3Server]:
    """Starts the server for the first process that asks, and stops it after the last.

    The processes that use it are listed by pid in a file, under a lock, so that one that was
    killed does not keep the server running for the others.
    """
    with _locked(state) as record:
        if not record:
            home = new_home()
            record.update(home=str(home), users=[], server=asdict(start(home)))
        record["users"].append(os.getpid())
    try:
        yield S3Server(**record["server"])
    finally:
        with _locked(state) as record:
            others = [pid for pid in record["users"] if pid != os.getpid() and _is_alive(pid)]
            record["users"] = others
            if not others:
                stop(Path(record["home"]))
                record.clear()


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[dict[str, Any]]:
    """A dict kept in a file, held by one process at a time, saved if the block succeeds."""
    with state.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = json.loads(state.read_text()) if state.exists() else {}
        yield record
        state.write_text(json.dumps(record))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
