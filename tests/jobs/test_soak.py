"""A soaked merge, small: the faults are real, the kills hit, and it ends right all the same."""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobs.benchmarks import processes
from jobs.soak import soak
from jobs.soak.fault_proxy import RATES, fault_proxy
from jobs.soak.killer import Killer
from tests.ceph_gateway import S3Server

# Two Rays start, and workers that were killed: 85 s on an idle machine with two cores.
SECONDS = 600

BODY = bytes(range(256)) * 40


class Echo(BaseHTTPRequestHandler):
    """Answers what it was sent, in chunks if so asked."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        else:
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def do_POST(self) -> None:
        self.do_PUT()

    def log_message(self, *about: object) -> None:
        pass


@contextmanager
def echoing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def outcome(connection: http.client.HTTPConnection, path: str, attempt: int) -> str:
    """What became of a request: `right`, a status, or how the connection ended."""
    try:
        headers = {"amz-sdk-request": f"attempt={attempt}; max=5", "Expect": ""}
        connection.request("PUT", path, BODY, headers)
        answer = connection.getresponse()
        data = answer.read()
    except http.client.IncompleteRead:
        return "truncated"
    except (http.client.RemoteDisconnected, ConnectionError):
        return "cut"
    if answer.status != 200:
        return str(answer.status)
    return "right" if data == BODY else "wrong"


def test_the_proxy_spoils_what_it_says_and_no_more() -> None:
    seen, tries = Counter[str](), 240
    with echoing() as upstream, fault_proxy(upstream, seed=1) as (spoilt, proxied):
        at = urlsplit(spoilt)
        connection = http.client.HTTPConnection(at.hostname or "", at.port)
        for number in range(tries):
            found = outcome(connection, "/chunked" if number % 2 else "/whole", 1 + number % 3)
            seen[found] += 1
            if found != "right":
                connection.close()  # the next request opens another
        connection.close()
    [one] = proxied
    assert set(one.faults) == set(RATES)
    assert (one.requests, one.repeated) == (tries, tries - len(range(0, tries, 3)))
    assert seen == {
        "500": one.faults["error_500"],
        "503": one.faults["slow_down"],
        "cut": one.faults["reset"] + one.faults["lost_answer"],
        "truncated": one.faults["truncated"],
        "right": tries - sum(one.faults.values()) + one.faults["delay"],
    }


def test_an_upload_that_the_server_began_and_did_not_say_so_is_counted() -> None:
    paths = (
        "/b/k%20x?uploads",
        "/b/k?uploads=",
        "/b/k?uploads&x=1",
        "/b/k?uploadId=1",
        "/b/uploads",
    )
    with (
        echoing() as upstream,
        fault_proxy(upstream, rates={"lost_answer": 1.0}) as (spoilt, proxied),
    ):
        at = urlsplit(spoilt)
        for path in paths:
            connection = http.client.HTTPConnection(at.hostname or "", at.port)
            connection.request("POST", path, b"")
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                connection.getresponse()
            connection.close()
    assert proxied[0].unanswered_uploads == ["/b/k%20x", "/b/k", "/b/k"]


def test_only_workers_below_the_process_are_killed() -> None:
    names = ("ray::solve layers.0", "ray::IDLE", "ray::RuntimeEnvAgent", "sleep")
    started = " ".join(f'(exec -a "{name}" sleep 600) &' for name in names)
    with subprocess.Popen(["bash", "-c", f"{started} wait"]) as parent:
        try:
            while len(processes.tree(parent.pid)) < 5:
                pass

            def left() -> set[str]:
                titles = {processes.title(pid) for pid in processes.tree(parent.pid)}
                return titles - {"", "bash"}  # one that has ended has none

            while left() != set(names):
                pass
            careful, ruthless = Killer(0, most=5), Killer(0)
            careful.kill_one(parent.pid)
            assert careful.killed == {"ray::solve": 1}
            while "ray::solve layers.0" in left():
                pass
            careful.kill_one(parent.pid)
            assert careful.killed == {"ray::solve": 1}
            ruthless.kill_one(parent.pid)
            assert ruthless.killed == {"ray::IDLE": 1}
            while "ray::IDLE" in left():
                pass
            ruthless.kill_one(parent.pid)
            assert ruthless.killed.total() == 1
            assert left() == {"ray::RuntimeEnvAgent", "sleep"}
        finally:
            for pid in processes.tree(parent.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.timeout(SECONDS)
def test_a_soaked_merge_ends_as_a_quiet_one(
    s3_env: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    given = argparse.Namespace(
        **{"adapters": 24, "layers": 2, "hidden": 64, "rank": 4, "shards": 0, "workers": 2},
        # A task gives up after four; here no task can lose as many workers.
        **{"kill_every": 0.5, "most_kills": 2, "seed": 0},
    )
    figures = soak.run(f"s3://{s3_bucket}", s3_env.endpoint_url, given)
    assert (figures["tasks"], figures["sites"]) == (14, 14)
    assert 7 <= figures["sites_kept_by_the_first"] <= figures["sites_resumed"] < 14
    assert figures["workers_killed"]["ray::solve"] >= 1
    assert set(figures["workers_killed"]) <= {"ray::solve"}
    assert sum(figures["faults"].values()) >= 24
    assert figures["requests_repeated"] > 0
