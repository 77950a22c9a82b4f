"""A TCP proxy that misbehaves on command, to put in front of a real S3 server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_BODY = b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class FaultProxy:
    """Forwards connections, taking one fault from `faults` for each, until none is left.

    Faults: "reset" closes at once; "slow_down" answers 503; "lose_answer" forwards the request
    and drops the answer; "truncate" cuts the answer after `cut_after` bytes.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.faults: list[str] = []
        self.cut_after = 100_000
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Ends the connections that are open, so that the next requests take the next faults."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                fault = self.faults.pop(0) if self.faults else ""
                threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str) -> None:
        self._open.append(client)
        if fault == "reset":
            client.close()
        elif fault == "slow_down":
            client.recv(65536)
            client.sendall(SLOW_DOWN)
            client.close()
        else:
            server = socket.create_connection(self._upstream)
            self._open.append(server)
            threading.Thread(target=_pump, args=(client, server, None), daemon=True).start()
            limit = {"lose_answer": 0, "truncate": self.cut_after}.get(fault)
            _pump(server, client, limit)


def _pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    """Copies until either side closes, or `limit` bytes have passed; then closes both."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if limit is not None:
                # "100 Continue" is part of asking, not the answer.
                if data.startswith(b"HTTP/1.1 100"):
                    target.sendall(data)
                    continue
                data, limit = data[:limit], limit - len(data)
            target.sendall(data)
            if limit is not None and limit <= 0:
                break
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
