"""A real S3 server for tests: a one-node Ceph object gateway on free local ports.

Fixtures:
- `s3_server`: the server, one for all pytest-xdist workers of a run.
- `s3_env`: the server, with the environment of this test pointing boto3 at it.
- `s3_bucket`: the name of a fresh bucket, with that environment set.

Needs `ceph-mon`, `ceph-osd`, `radosgw` and `ceph` (Debian: ceph-mon, ceph-osd, radosgw). Without
them the tests that use it are skipped, and fail where `CI` is set.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
ACCESS_KEY = "legoaccess"
SECRET_KEY = "legosecretlegosecret"
START_SECONDS = 120

# No authentication between the daemons, one copy of everything, objects in memory. Two lines are
# there for a reason that does not show: without `ms_mon_client_mode = crc` the gateway hangs, and
# without `tcp_nodelay=1` a small read takes 44 ms and not 4.
CONFIG = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_bind_msgr1 = false
ms_mon_client_mode = crc
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
mon_data_avail_warn = 1
mon_max_pg_per_osd = 1000
run_dir = {home}/run
pid_file = {home}/run/$name.pid
admin_socket = {home}/run/$name.asok
log_file = {home}/log/$name.log
keyring = {home}/keyring
[mon]
mon_data = {home}/mon
[osd]
osd_data = {home}/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_memory_target = 939524096
[client]
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_dns_name = localhost
rgw_data = {home}/rgw
rgw_thread_pool_size = 64
"""


@dataclass(frozen=True)
class S3Server:
    """A running server and the keys of its one user."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def environ(self) -> dict[str, str]:
        """The variables that point boto3 at this server, and at nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def bucket(self) -> str:
        """Makes a fresh bucket and returns its name."""
        name = f"test-{uuid.uuid4().hex}"
        _client(self).create_bucket(Bucket=name)
        return name


@functools.cache
def _client(server: S3Server) -> Any:
    """One client for all buckets: to make one takes 20 times as long as to make a bucket."""
    import boto3

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        sentence = f"The S3 tests need Ceph's gateway, and {', '.join(missing)} is not installed."
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
            # A short path: the daemons' sockets lie below it, and such paths end at 107 bytes.
            home = tempfile.mkdtemp(prefix="lego-s3-", dir="/tmp")
            record.update(home=home, users=[], server=asdict(_start(Path(home))))
        record["users"].append(os.getpid())
    try:
        yield S3Server(**record["server"])
    finally:
        with _locked(state) as record:
            others = [pid for pid in record["users"] if pid != os.getpid() and _is_alive(pid)]
            record["users"] = others
            if not others:
                _stop(Path(record["home"]))
                record.clear()


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[dict[str, Any]]:
    """A dict kept in a file, held by one process at a time, saved if the block succeeds."""
    with state.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = json.loads(state.read_text()) if state.exists() else {}
        yield record
        state.write_text(json.dumps(record))


def _start(home: Path) -> S3Server:
    try:
        return _start_daemons(home)
    except BaseException as error:
        _stop(home)
        if isinstance(error, subprocess.CalledProcessError):
            said = f"{error.stdout}\n{error.stderr}".strip()
            raise RuntimeError(f"{error.cmd} failed:\n{said[-2000:]}") from error
        raise


def _start_daemons(home: Path) -> S3Server:
    port, mon_port = _free_ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    for name in ("mon", "osd", "rgw", "run", "log"):
        (home / name).mkdir()
    (home / "keyring").touch()
    config = home / "ceph.conf"
    config.write_text(CONFIG.format(fsid=fsid, mon_port=mon_port, port=port, home=home))

    def run(*command: str) -> None:
        # Python settings of this environment are not for the `ceph` script's own interpreter.
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        subprocess.run(
            command,
            env={**clean, "CEPH_CONF": str(config)},
            check=True,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )

    monmap = str(home / "monmap")
    run(
        "monmaptool",
        "--create",
        "--fsid",
        fsid,
        "--addv",
        "a",
        f"[v2:127.0.0.1:{mon_port}]",
        monmap,
    )
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(home / "keyring"))
    run("ceph-mon", "-i", "a")
    run("ceph", "osd", "new", osd)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    run("ceph-osd", "-i", "0")
    # Waits by itself until the OSD is up and its pools are made.
    run("radosgw", "-n", "client.rgw")
    endpoint = f"http://127.0.0.1:{port}"
    _wait_for(endpoint)
    run(
        *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=lego"),
        *("--display-name=lego", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"),
    )
    return S3Server(endpoint, ACCESS_KEY, SECRET_KEY)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(endpoint: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            opener.open(endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The S3 server at {endpoint} did not answer in {START_SECONDS} s.")


def _stop(home: Path) -> None:
    """Ends the daemons by the pids they wrote, the gateway first, and removes their files."""
    for name in ("client.rgw", "osd.0", "mon.a"):
        with contextlib.suppress(OSError, ValueError):
            pid = int((home / "run" / f"{name}.pid").read_text())
            # Everything they hold is in memory and thrown away, so nothing is lost by not asking.
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
