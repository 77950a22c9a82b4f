"""A Ray head of a test's own that takes jobs through its dashboard, and nodes that join and leave it.

Needs `ray[default]`, which has the dashboard; `make test-cluster` installs it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.surroundings import without_ray

NEEDS_DASHBOARD = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("aiohttp", "aiohttp_cors", "opencensus"))),
    reason="Ray has a dashboard, and takes jobs, with ray[default] only",
)
ROOT = Path(__file__).parents[2]
# A head with a dashboard takes half a minute to start where other work is going on.
SECONDS = 240
T = TypeVar("T")
_RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        dashboard: Where it takes jobs.
        address: Where nodes and drivers join it.
        environ: Of its processes, for those that are to join it.
        installed: The folder that its processes find lego-ray in.
    """

    dashboard: str
    address: str
    environ: dict[str, str]
    installed: Path

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a `ray job` command against it."""
        return subprocess.run(
            [_RAY, "job", *words],
            env={**self.environ, "RAY_ADDRESS": self.dashboard},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def submit(self, name: str, *entry: object) -> bool:
        """Runs a job to its end; says whether it succeeded, as `ray job submit` does.

        Args:
            name: The job's.
            entry: Arguments of Python.
        """
        flags = ["--submission-id", name]
        done = self.ray("submit", *flags, "--", sys.executable, *map(str, entry))
        assert f"'{name}'" in done.stdout, done.stdout + done.stderr
        return done.returncode == 0

    def begin(self, name: str, *entry: object) -> None:
        """Starts a job and does not wait for it.

        Args:
            name: The job's.
            entry: Arguments of Python.
        """
        flags = ["--submission-id", name, "--no-wait"]
        done = self.ray("submit", *flags, "--", sys.executable, *map(str, entry))
        assert done.returncode == 0, done.stdout + done.stderr

    def wait_for(self, name: str, *wanted: str) -> str:
        """Waits until a job has one of some states, and says which."""
        return wait_until(lambda: found if (found := self.status(name)) in wanted else "")

    def status(self, name: str) -> str:
        """What `ray job status` says of it."""
        said = self.ray("status", name, "--log-style", "record", "--log-color", "false").stdout
        found = re.search(rf"[Jj]ob '{name}':? (?:was )?(\w+)", said)
        return found[1].lower() if found else said

    def record(self, name: str) -> dict[str, Any]:
        """The last line of the log."""
        return dict(json.loads(self.log(name).splitlines()[-1]))

    def said(self) -> str:
        """What its own processes said last, for a test that fails on it."""
        folder = self.installed.parent
        logs = (folder / "session_latest" / "logs").glob("*.out")
        return "\n".join(
            f"{log.name}: {log.read_text(errors='replace')[-2_000:]}"
            for log in (folder / "start.log", *sorted(logs))
            if log.name.startswith(("start", "gcs_server", "raylet"))
        )

    def log(self, name: str) -> str:
        """What `ray job logs` shows."""
        done = self.ray("logs", name, "--log-style", "record", "--log-color", "false")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@contextlib.contextmanager
def ray_head(cpus: int, more: Mapping[str, str]) -> Iterator[Head]:
    """A head.

    Args:
        cpus: Of the head itself.
        more: What its environment has besides.
    """
    # Not below pytest's own directory: a socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as temporary:
        # The cluster has lego-ray, as from the wheel, and no checkout.
        installed = Path(temporary, "installed")
        installed.mkdir()
        (installed / "lego_ray").symlink_to(ROOT / "lego_ray")
        environ = {
            **without_ray(),
            **more,
            "PYTHONPATH": str(installed),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray asks for a token by default; this head has one that no other cluster knows.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        names = ("port", "dashboard-port", "ray-client-server-port")
        ports = free_ports(len(names))
        words = ["--head", "--dashboard-host", "127.0.0.1", "--temp-dir", temporary]
        words += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
        log = Path(temporary, "start.log")
        process = start(words, cpus, environ, log)
        try:
            found = Head(
                f"http://127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[0]}", environ, installed
            )
            wait_for_jobs(found, process, log)
            yield found
        finally:
            end(process)


@contextlib.contextmanager
def nodes(head: Head) -> Iterator[Nodes]:
    """Nodes of one CPU each; those that are left at the end are ended."""
    found = Nodes(head, {})
    try:
        yield found
    finally:
        for name in list(found.running):
            found.lose(name)


@dataclass(frozen=True)
class Nodes:
    """The nodes of a head, by names that are a test's own."""

    head: Head
    running: dict[str, subprocess.Popen[bytes]]

    def add(self, name: str, more: Mapping[str, str] | None = None) -> None:
        """Starts one, and waits until it is up.

        Args:
            name: Its name.
            more: What its environment has besides the head's.
        """
        log = self.head.installed.parent / f"{name}.log"
        words = ["--address", self.head.address, "--resources", json.dumps({name: 1})]
        environ = {**self.head.environ, **(more or {})}
        try:
            self.running[name] = start(words, 1, environ, log)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.head.said()}") from None

    def lose(self, name: str) -> None:
        """Kills one with all that runs on it."""
        kill(self.running.pop(name))


def start(
    words: list[str], cpus: int, environ: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Starts a node, in a session of its own so that its processes can be ended and no others.

    Ray gives a node 30 s. One that took longer, or found a port taken, is started again, as a pod is.
    """
    for _ in range(3):
        process = begin(words, cpus, environ, log)
        try:
            wait_until(partial(_started, process, log))
        finally:
            if _started(process, log) != "up":
                kill(process)
        if process.returncode is None:
            return process
    raise AssertionError(log.read_text())


def begin(
    words: list[str], cpus: int, environ: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Begins to start a node."""
    names = (
        *("node-manager-port", "object-manager-port", "metrics-export-port"),
        *("dashboard-agent-listen-port", "runtime-env-agent-port"),
    )
    command = [_RAY, "start", "--block", "--node-ip-address", "127.0.0.1", *words]
    command += ["--num-cpus", str(cpus), "--disable-usage-stats"]
    command += ["--object-store-memory", str(256 * 2**20)]
    command += [
        f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)
    ]
    with log.open("w") as out:
        return subprocess.Popen(
            command, env=dict(environ), cwd="/", stdout=out, stderr=out, start_new_session=True
        )


def _started(process: subprocess.Popen[bytes], log: Path) -> str:
    """Whether a node is up or has ended; empty while it is neither."""
    ended = process.poll() is not None
    return "up" if "Ray runtime started" in log.read_text() else "ended" * ended


def wait_until(found: Callable[[], T]) -> T:
    """Asks until there is an answer, and returns it."""
    deadline = time.monotonic() + SECONDS
    while not (answer := found()):
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.2)
    return answer


def wait_for_jobs(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the head takes jobs."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    token = {"Authorization": f"Bearer {head.environ['RAY_AUTH_TOKEN']}"}
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            opener.open(
                urllib.request.Request(f"{head.dashboard}/api/jobs/", headers=token)
            ).close()
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:  # waiting would not help
                raise
        except OSError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a head: `ray start --block` ends what it started, told to; what is left of it, we do."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a node with all that runs on it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that nobody is given who asks for any port.

    Ray listens on some of them only seconds later, and opens a hundred connections before that: a
    port which the system gives away (from 32768 up) could be taken by then. Ray's own workers take
    those below 20000.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(range(20_000, 32_768), 1_000):
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no ports are free")
