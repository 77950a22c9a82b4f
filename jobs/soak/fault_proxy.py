"""Spoils a stated share of the requests to an S3 server, as a process between it and its clients.

A process of its own, because the Delta library holds the interpreter while it waits for an answer.
Faults are drawn for each request, in the order they come, by a seeded generator; what a connection
carries is looked at as far as HTTP/1.1 asks for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

# Share of all requests; together 8 %, of which 6 are to be tried again.
RATES = {
    "error_500": 0.01,  # answered InternalError, and not passed on
    "slow_down": 0.02,  # answered 503 SlowDown, and not passed on
    "reset": 0.01,  # the connection ends instead, and nothing is passed on
    "lost_answer": 0.01,  # passed on and done, but the connection ends without a word
    "truncated": 0.01,  # the connection ends within the body; of an answer without, before its head
    "delay": 0.02,  # answered late, and right
}
DELAY_SECONDS = (0.1, 1.0)
CHUNK = 65536
HEAD_LIMIT = 1 << 20

_BEGIN_UPLOAD = re.compile(rb"POST (?P<path>[^ ?]+)\?uploads(?:[=&][^ ]*)? ")


@dataclass(frozen=True, slots=True)
class ProxyCounts:
    """What a proxy did, as it says when it ends.

    Attributes:
        requests: Requests that reached it.
        repeated: Of these, tries after the first, where the client says so, as boto3 does.
        faults: Faults by kind.
        unanswered_uploads: `/bucket/key` of each upload in parts that the server began, where the
            answer with its id was lost. Nobody can end such an upload but who lists the bucket's,
            as its lifecycle rule does.
    """

    requests: int
    repeated: int
    faults: dict[str, int]
    unanswered_uploads: list[str]


@contextmanager
def fault_proxy(
    upstream: str,
    *,
    seed: int = 0,
    rates: Mapping[str, float] = RATES,
    delay: tuple[float, float] = DELAY_SECONDS,
) -> Iterator[tuple[str, list[ProxyCounts]]]:
    """Runs a proxy for the block.

    Args:
        upstream: URL of the server.
        seed: Fixes which fault the n-th request takes.
        rates: Share of the requests by fault, some or all of `RATES`.
        delay: Least and most seconds by which a late answer is late.

    Yields:
        The URL to use instead, and a list that holds what the proxy did once the block is over.

    Raises:
        RuntimeError: If it does not start.
    """
    done: list[ProxyCounts] = []
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jobs.soak.fault_proxy", upstream, "--seed", str(seed)),
            *("--rates", json.dumps(dict(rates)), "--delay", *map(str, delay)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None  # asked for above
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the proxy before {upstream} did not start; see its error above")
        yield url, done
        out, _ = process.communicate(timeout=60)  # closes its stdin, by which it ends
        done.append(ProxyCounts(**json.loads(out)))
    finally:
        process.kill()
        process.wait()


class FaultProxy:
    """Forwards each request of each connection, or a fault in its place.

    A subclass may draw faults in another way; `tests.storage.scripted_proxy` takes them from a list.
    """

    def __init__(
        self,
        upstream: str,
        rates: Mapping[str, float] = RATES,
        seed: int = 0,
        delay: tuple[float, float] = DELAY_SECONDS,
    ) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._rates = dict(rates)
        self._delay = delay
        self._random = random.Random(seed)
        self._clients = set[asyncio.StreamWriter]()
        self.requests = self.repeated = 0
        self.faults = Counter[str]()
        self.unanswered_uploads: list[str] = []

    def counts(self) -> ProxyCounts:
        """What was done so far."""
        faults = dict(sorted(self.faults.items()))
        return ProxyCounts(self.requests, self.repeated, faults, self.unanswered_uploads)

    def drop(self) -> None:
        """Ends the connections that are open."""
        for client in self._clients:
            client.close()

    def _draw(self) -> str:
        """The fault of the next request; empty for none."""
        point = self._random.random()
        for fault, rate in self._rates.items():
            if point < rate:
                return fault
            point -= rate
        return ""

    def _cut(self, answer: bytes, body: bytes) -> bytes:
        """What a client gets of an answer that is cut short, given its head and a piece of its body."""
        return answer + body[: self._random.randrange(len(body))] if body else b""

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or a fault does."""
        server: _Server | None = None
        self._clients.add(back)
        try:
            while await self._exchange(client, back, server := server or _Server(self._upstream)):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side left
        finally:
            self._clients.discard(back)
            for writer in (back, server.writer if server else None):
                if writer is not None:
                    writer.close()

    async def _exchange(
        self, client: asyncio.StreamReader, back: asyncio.StreamWriter, server: _Server
    ) -> bool:
        """One request and its answer; whether another may follow."""
        head = await client.readuntil(b"\r\n\r\n")
        self.requests += 1
        self.repeated += bool(re.search(rb"amz-sdk-request: attempt=(?!1\b)", head, re.IGNORECASE))
        if fault := self._draw():
            self.faults[fault] += 1
        if fault == "delay":
            await asyncio.sleep(self._random.uniform(*self._delay))
        if fault == "reset":
            return False
        if _field(head, b"expect"):  # answered here, for the server's own would be one more answer
            back.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault in _REFUSALS:
            async for _ in _body(client, head):
                pass
            back.write(_REFUSALS[fault])
            await back.drain()
            return False
        await server.send(re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head), client)
        answer = await server.reader.readuntil(b"\r\n\r\n")
        method, status = head.split(b" ", 1)[0], answer.split(b" ", 2)[1]
        pieces = _body(server.reader, answer, method == b"HEAD" or status in (b"204", b"304"))
        if fault in ("truncated", "lost_answer"):
            if (begun := _BEGIN_UPLOAD.match(head)) and status == b"200":
                self.unanswered_uploads.append(begun["path"].decode())
            first = await anext(pieces, b"")
            if fault == "truncated":
                back.write(self._cut(answer, first))
                await back.drain()
            return False
        back.write(answer)
        async for piece in pieces:
            back.write(piece)
            await back.drain()
        await back.drain()
        return _field(answer, b"connection").lower() != b"close"


class _Server:
    """The connection to the server that belongs to a client's; made again where it has ended."""

    def __init__(self, at: tuple[str, int]) -> None:
        self._at = at
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, head: bytes, client: asyncio.StreamReader) -> None:
        if self.writer is None or self.reader.at_eof():
            if self.writer is not None:
                self.writer.close()
            self.reader, self.writer = await asyncio.open_connection(*self._at, limit=HEAD_LIMIT)
        self.writer.write(head)
        async for piece in _body(client, head):
            self.writer.write(piece)
            await self.writer.drain()
        await self.writer.drain()


async def _body(
    reader: asyncio.StreamReader, head: bytes, none: bool = False
) -> AsyncIterator[bytes]:
    """The body after a head, as it is on the wire, in pieces."""
    if none:
        return
    if _field(head, b"transfer-encoding").lower() == b"chunked":
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
            if not size:
                return
    left = int(_field(head, b"content-length") or 0)
    while left:
        piece = await reader.read(min(CHUNK, left))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


def _field(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?i)\r\n" + name + rb":[ \t]*([^\r]*)", head)
    return found.group(1).strip() if found else b""


def _refused(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>Try again.</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


_REFUSALS = {
    "error_500": _refused("500 Internal Server Error", "InternalError"),
    "slow_down": _refused("503 Slow Down", "SlowDown"),
}


async def _run(
    upstream: str, rates: Mapping[str, float], seed: int, delay: tuple[float, float]
) -> None:
    proxy = FaultProxy(upstream, rates, seed, delay)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=HEAD_LIMIT)
    port = listener.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    # Whoever started it ends it by closing its stdin, if need be by ending itself.
    with suppress(KeyboardInterrupt):
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps(asdict(proxy.counts())), flush=True)


def main() -> None:
    """Serves until stdin ends, then prints what it did as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream", help="URL of the server")
    parser.add_argument(
        "--rates", type=json.loads, default=RATES, help="share of requests by fault, JSON"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--delay", type=float, nargs=2, default=DELAY_SECONDS, help="least and most seconds"
    )
    given = parser.parse_args()
    asyncio.run(_run(given.upstream, given.rates, given.seed, tuple(given.delay)))


if __name__ == "__main__":
    main()
