"""The entry points as Ray jobs: submitted to a real head through its dashboard, logs and status read.

Needs `ray[default]`, which has the dashboard; `make test-cluster` installs it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from tests.surroundings import without_ray
from tests.zoo import weights_of, write_adapter, write_zoo

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("aiohttp", "aiohttp_cors", "opencensus"))),
        reason="Ray has a dashboard, and takes jobs, with ray[default] only",
    ),
]
ROOT = Path(__file__).parents[2]
# A head with a dashboard takes half a minute to start where other work is going on.
SECONDS = 240
RECIPE = """
sources: [{zoo}]
catalog: {catalog}
output: {library}
merges: [{{name: all, rank: 4, options: {{n_init: 2}}}}]
"""


@dataclass(frozen=True)
class Head:
    """A Ray head of this test's own."""

    dashboard: str
    environ: dict[str, str]

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a `ray job` command against it."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "ray"), "job", *words],
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

    def status(self, name: str) -> str:
        """What `ray job status` says of it."""
        said = self.ray("status", name, "--log-style", "record", "--log-color", "false").stdout
        found = re.search(rf"Job '{name}' (\w+)", said)
        return found[1] if found else said

    def record(self, name: str) -> dict[str, Any]:
        """The last line of the log."""
        return dict(json.loads(self.log(name).splitlines()[-1]))

    def log(self, name: str) -> str:
        """What `ray job logs` shows."""
        done = self.ray("logs", name, "--log-style", "record", "--log-color", "false")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    ports = free_ports(8)
    # Not below pytest's own directory: a socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as temporary:
        # The cluster has lego-ray, as from the wheel, and no checkout.
        installed = Path(temporary, "installed")
        installed.mkdir()
        (installed / "lego_ray").symlink_to(ROOT / "lego_ray")
        environ = {
            **without_ray(),
            "PYTHONPATH": str(installed),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray asks for a token by default; this head has one that no other cluster knows.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        names = (
            *("port", "dashboard-port", "ray-client-server-port", "node-manager-port"),
            *("object-manager-port", "metrics-export-port", "dashboard-agent-listen-port"),
            *("runtime-env-agent-port",),
        )
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
        command += ["--dashboard-host", "127.0.0.1", "--node-ip-address", "127.0.0.1"]
        command += ["--temp-dir", temporary, "--num-cpus", "2", "--disable-usage-stats"]
        command += ["--object-store-memory", str(256 * 2**20)]
        command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
        log = Path(temporary, "start.log")
        with log.open("w") as out:
            # In a session of its own, which ends with this head and with no other one.
            process = subprocess.Popen(
                command, env=environ, cwd="/", stdout=out, stderr=out, start_new_session=True
            )
        try:
            found = Head(f"http://127.0.0.1:{ports[1]}", environ)
            wait_for_jobs(found, process, log)
            yield found
        finally:
            end(process)


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
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def test_a_catalog_a_merge_and_a_library_are_made_by_jobs(head: Head, tmp_path: Path) -> None:
    zoo, catalog = write_zoo(tmp_path / "zoo", 3), tmp_path / "catalog"

    entry: tuple[object, ...] = ("-m", "lego_ray.jobs.build_catalog", zoo, "--catalog", catalog)
    assert head.submit("scan", *entry), head.log("scan")
    assert head.status("scan") == "succeeded"
    assert head.record("scan")["new"] == 3

    flags = ("--rank", 4, "--n-init", 2, "--output", tmp_path / "merged", "--catalog", catalog)
    entry = ("-m", "lego_ray.jobs.merge_zoo", zoo, *flags)
    assert head.submit("merge", *entry), head.log("merge")
    assert head.status("merge") == "succeeded"
    record = head.record("merge")
    assert record["status"] == "published"
    assert f"planned {record['merge_id'][:12]}" in head.log("merge")
    lego_ray.merge(zoo, rank=4, n_init=2, output=tmp_path / "inline/merged", runner="inline")
    assert weights_of(tmp_path / "merged") == weights_of(tmp_path / "inline/merged")

    recipe = tmp_path / "library.yaml"
    places = {"zoo": zoo, "catalog": catalog, "library": tmp_path / "library"}
    recipe.write_text(RECIPE.format(**places))
    entry = ("-m", "lego_ray.jobs.refresh_library", recipe)
    assert head.submit("first", *entry), head.log("first")
    assert head.record("first")["status"] == "refreshed"
    assert head.submit("again", *entry), head.log("again")
    assert head.record("again")["status"] == "unchanged"
    write_adapter(zoo / "newcomer", seed=77)
    # As with the wheel alone: the command line is an entry point like any other.
    entry = ("-m", "lego_ray", "refresh", recipe, "--address", "auto", "--json")
    assert head.submit("newcomer", *entry), head.log("newcomer")
    record = head.record("newcomer")
    assert [m["version"] for m in record["merges"]] == [2]
    lego_ray.merge(zoo, rank=4, n_init=2, output=tmp_path / "all", runner="inline")
    assert weights_of(record["merges"][0]["output"]) == weights_of(tmp_path / "all")


def test_a_job_that_is_refused_has_failed_and_says_why(head: Head, tmp_path: Path) -> None:
    entry = ("-m", "lego_ray.jobs.merge_zoo", tmp_path / "none", "--rank", 4)
    assert not head.submit("bad", *entry, "--output", tmp_path / "merged")
    assert head.status("bad") == "failed"
    assert f"ObjectNotFound: {tmp_path / 'none'}" in head.log("bad")
    assert not (tmp_path / "merged").exists()
