"""What stands before an S3 server in a company: a front that speaks TLS, and a proxy.

Each is a separate process, because the Delta library holds the interpreter while it waits for an
answer.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_PIECE = 1 << 16
# Of one connection, and not of the message.
_HOP = ("connection", "proxy-connection", "transfer-encoding", "content-length", "expect")
# How each client calls itself.
_CLIENTS = {"boto3": "boto3", "aws-sdk-cpp": "arrow", "object_store": "delta"}


@dataclass(frozen=True)
class Request:
    """A request as the proxy saw it; of one through a tunnel, the tunnel alone.

    Attributes:
        client: `boto3`, `delta` or `arrow`; empty where it is not said.
        method: Its method.
        host: The server that was asked for, as a host.
        path: What was asked of it, with its query; empty of a tunnel.
    """

    client: str
    method: str
    host: str
    path: str = ""


class Proxy:
    """A running proxy, through which every name leads to the same server."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    def seen(self) -> list[Request]:
        """The requests so far."""
        return [Request(**json.loads(line)) for line in self._log.read_text().splitlines()]


@contextlib.contextmanager
def tls_front(upstream: str, certificate: Path) -> Iterator[str]:
    """A front for TLS before a server, byte for byte; gives its port's address, `127.0.0.1:port`.

    Args:
        upstream: URL of the server.
        certificate: PEM file with the key and the certificates of the front.
    """
    with _process("tls", upstream, str(certificate)) as address:
        yield address


@contextlib.contextmanager
def http_proxy(upstream: str, log: Path, tunnels_to: str = "") -> Iterator[Proxy]:
    """A proxy for HTTP; whatever name is asked for, the server answers.

    Args:
        upstream: URL of the server.
        log: File for what is seen, which is made.
        tunnels_to: `host:port` that tunnels lead to, whatever name they ask for.
    """
    log.touch()
    with _process("proxy", upstream, str(log), tunnels_to) as address:
        yield Proxy(f"http://{address}", log)


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.s3_fronts", *arguments]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _pipe(one: socket.socket, other: socket.socket) -> None:
    """Passes bytes on in both directions until one side ends."""

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                sink.sendall(piece)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=pass_on, args=(other, one), daemon=True)
    back.start()
    pass_on(one, other)
    back.join()


class _TlsServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


def _serve_tls(upstream: str, certificate: str) -> socketserver.TCPServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    at = urlsplit(upstream)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                secure = context.wrap_socket(self.request, server_side=True)
                with secure, socket.create_connection((at.hostname or "", at.port or 0)) as server:
                    _pipe(secure, server)

    return _TlsServer(("127.0.0.1", 0), Handler)


def _serve_proxy(upstream: str, log: str, tunnels_to: str) -> socketserver.TCPServer:
    at = urlsplit(upstream)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def note(self, host: str, path: str = "") -> None:
            agent = self.headers.get("User-Agent", "").lower()
            client = next((name for word, name in _CLIENTS.items() if word in agent), "")
            about = {"client": client, "method": self.command, "host": host, "path": path}
            with lock, Path(log).open("a") as file:
                file.write(json.dumps(about) + "\n")

        def do_CONNECT(self) -> None:
            self.note(self.path.rpartition(":")[0])
            host, _, port = tunnels_to.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                self.send_response(200)
                self.end_headers()
                _pipe(self.connection, server)
            self.close_connection = True

        def pass_on(self) -> None:
            asked = urlsplit(self.path)
            path = asked.path + (f"?{asked.query}" if asked.query else "")
            self.note(asked.hostname or "", path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server = http.client.HTTPConnection(at.hostname or "", at.port)
            server.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    server.putheader(name, value)
            if self.command in ("PUT", "POST"):
                server.putheader("Content-Length", str(len(body)))
            server.endheaders(body or None)
            answer = server.getresponse()
            data = answer.read()
            self.send_response_only(answer.status)
            length = str(len(data))
            for name, value in answer.getheaders():
                if name.lower() == "content-length":
                    length = value  # of HEAD, which has no body
                elif name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(data)
            server.close()

        def do_GET(self) -> None:
            self.pass_on()

        def do_HEAD(self) -> None:
            self.pass_on()

        def do_PUT(self) -> None:
            self.pass_on()

        def do_POST(self) -> None:
            self.pass_on()

        def do_DELETE(self) -> None:
            self.pass_on()

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    return proxy


def main() -> None:
    """Serves until stdin ends, as it does when the process that started this one ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("tls", "proxy"))
    parser.add_argument("upstream", help="URL of the server")
    parser.add_argument("more", nargs="*")
    given = parser.parse_args()
    serve = _serve_tls if given.kind == "tls" else _serve_proxy
    server = serve(given.upstream, *given.more)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"127.0.0.1:{server.socket.getsockname()[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
