"""Servers for tests of `gs://` and `az://`.

Fixtures:
- `gcs`: a server that speaks the part of Google's API that obstore uses, one for each process of a run,
  see `tests.storage.fake_gcs`, with the environment of this test pointing obstore at it.
- `gcs_bucket`: the name of a fresh bucket there; buckets come to be by use.
- `azurite`: Azurite, Microsoft's own emulator, one for each process of a run, with that environment.
- `az_container`: the name of a fresh container there.
- `az_front`: such a container, through `tests.azurite_front`, which the Delta library needs.

Without Azurite (`npm install --global azurite`) the tests that use it are skipped, in CI too: npm is the
one source that CI can do without.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.ceph_gateway import _free_ports
from tests.storage.fake_gcs import environ

# The account and the key of every Azurite, as its documentation gives them.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PROGRAM = "azurite-blob"
START_SECONDS = 120


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    with _running("tests.storage.fake_gcs") as address:
        yield address


@pytest.fixture
def gcs(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in environ(gcs_server).items():
        monkeypatch.setenv(name, value)
    return gcs_server


@pytest.fixture
def gcs_bucket(gcs: str) -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"This needs Azure's emulator, and {PROGRAM} is not installed.")
    home = tmp_path_factory.mktemp("azurite")
    (port,) = _free_ports(1)
    options = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *options, "--blobPort", str(port)], cwd=home, stdout=log, stderr=log
        )
    try:
        _wait_for(port, process, home / "log")
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def azurite(azurite_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite_server)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return azurite_server


@pytest.fixture
def az_container(azurite: str) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex}"
    _ask(azurite, "PUT", name)
    yield name
    _ask(azurite, "DELETE", name)


@pytest.fixture
def az_front(az_container: str, azurite: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    parts = urlsplit(azurite)
    with _running("tests.azurite_front", f"http://{parts.netloc}") as address:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{address}{parts.path}")
        yield az_container


@contextlib.contextmanager
def _running(module: str, *arguments: str) -> Iterator[str]:
    """Runs a server that prints its address, in a separate process."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _ask(endpoint: str, method: str, container: str) -> None:
    """Makes or deletes a container, which obstore does not; signed as Azure asks for it."""
    stamped = {
        "x-ms-date": format_datetime(datetime.now(UTC), usegmt=True),
        "x-ms-version": "2021-08-06",
    }
    lines = [method, *[""] * 11, *(f"{k}:{v}" for k, v in stamped.items())]
    lines += [f"/{ACCOUNT}/{ACCOUNT}/{container}", "restype:container"]
    digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    signed = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(
        f"{endpoint}/{container}?restype=container",
        method=method,
        headers={**stamped, "Authorization": signed, "Content-Length": "0"},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            opener.open(f"http://127.0.0.1:{port}", timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"Azurite did not start: {log.read_text(errors='replace')[-2000:]}")
