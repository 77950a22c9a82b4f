"""A one-node Ceph object gateway on free local ports: a real S3 server, for tests and benchmarks.

Needs `ceph-mon`, `ceph-osd`, `radosgw` and `ceph` (Debian: ceph-mon, ceph-osd, radosgw).
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lego_ray.runners.ray.alone import put_back

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
ACCESS_KEY = "legoaccess"
SECRET_KEY = "legosecretlegosecret"
START_SECONDS = 120
# Between the choice of a port and its use, another process may take it.
STARTS = 3
PORT_TAKEN = ("Address already in use", "(98)", "(48)", "unable to bind")

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
    """A running server, the keys of its user, and where its files are."""

    endpoint_url: str
    access_key: str
    secret_key: str
    home: str = ""

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

    def upload(self, folder: Path, bucket: str, below: str = "") -> None:
        """Puts the files of a directory into a bucket, as its owner."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{below}{path.relative_to(folder)}"
                _client(self).put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


@functools.cache
def _client(server: S3Server) -> Any:
    """One client for all buckets: to make one takes 20 times as long as to make a bucket."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        # Made at its first use, perhaps in a test that sets a proxy, and kept for those that set none.
        config=Config(proxies={}),
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


@contextlib.contextmanager
def one_server() -> Iterator[S3Server]:
    """A server that runs as long as the block, which the environment names; it holds 2 GiB, in memory.

    Raises:
        RuntimeError: If it cannot be started.
    """
    if sentence := missing():
        raise RuntimeError(sentence)
    home = new_home()
    server = start(home)
    before = {name: os.environ.get(name) for name in server.environ()}
    os.environ.update(server.environ())
    try:
        yield server
    finally:
        put_back(before)
        stop(home)


def missing() -> str:
    """What a server lacks on this machine, as a sentence; empty if nothing."""
    names = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"This needs Ceph's gateway, and {', '.join(names)} is not installed." if names else ""


def new_home() -> Path:
    """A folder with a short path: the daemons' sockets lie below it, and such paths end at 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="lego-s3-", dir="/tmp"))


def start(home: Path) -> S3Server:
    """Starts the daemons in a folder of `new_home`.

    Raises:
        RuntimeError: If they cannot be started; nothing of them is left then.
    """
    for starts_left in reversed(range(STARTS)):
        try:
            return _start_daemons(home)
        except BaseException as error:
            said = _said(error, home)
            stop(home)
            if starts_left and any(words in said for words in PORT_TAKEN):
                home.mkdir(mode=0o700)
                continue
            if isinstance(error, subprocess.CalledProcessError):
                raise RuntimeError(f"{error.cmd} failed:\n{said[-2000:]}") from error
            raise
    raise AssertionError("unreachable")


def _said(error: BaseException, home: Path) -> str:
    """What the daemons logged and a failed command printed."""
    logs = [log.read_text(errors="replace")[-2000:] for log in sorted(home.glob("log/*.log"))]
    if isinstance(error, subprocess.CalledProcessError):
        logs += [str(error.stdout), str(error.stderr)]
    return "\n".join(logs).strip()


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
    return S3Server(endpoint, ACCESS_KEY, SECRET_KEY, str(home))


@dataclass(frozen=True)
class OtherUser:
    """A user beside the server's own, who may do what a bucket's policy says."""

    arn: str
    access_key: str
    secret_key: str


def second_user(server: S3Server) -> OtherUser:
    """Makes that user, or finds the one made before."""
    uid, key, secret = "other", "otheraccess", "othersecretothersecret"
    command = [*("radosgw-admin", "-n", "client.rgw", "user", "create", f"--uid={uid}")]
    command += [f"--display-name={uid}", f"--access-key={key}", f"--secret-key={secret}"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        command,
        env={**clean, "CEPH_CONF": f"{server.home}/ceph.conf"},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    # A second create of the same user is refused or the same again, by release.
    if done.returncode and "exist" not in done.stderr:
        raise RuntimeError(f"{command} failed:\n{done.stderr[-2000:]}")
    return OtherUser(f"arn:aws:iam:::user/{uid}", key, secret)


def _free_ports(count: int) -> list[int]:
    """Ports at which nothing listens, of those that no kernel gives to outgoing connections."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(10_240, 32_768)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


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


def stop(home: Path) -> None:
    """Ends the daemons by the pids they wrote, the gateway first, and removes their files."""
    for name in ("client.rgw", "osd.0", "mon.a"):
        with contextlib.suppress(OSError, ValueError):
            pid = int((home / "run" / f"{name}.pid").read_text())
            # Everything they hold is in memory and thrown away, so nothing is lost by not asking.
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)
