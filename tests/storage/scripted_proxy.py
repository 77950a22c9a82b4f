"""A proxy that spoils requests on command, to put in front of a real S3 server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from jobs.soak.fault_proxy import FaultProxy


class ScriptedProxy(FaultProxy):
    """Takes one fault from a list for each request, until none is left.

    Attributes:
        script: Faults to come, of `jobs.soak.fault_proxy.RATES`.
        cut_after: Bytes of an answer, its head among them, that go through before "truncated" cuts it.
        endpoint_url: Where to send requests.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.script: list[str] = []
        self.cut_after = 100_000
        self.endpoint_url = ""
        self._loop = asyncio.new_event_loop()

    def drop(self) -> None:
        """Ends the connections that are open."""
        self._loop.call_soon_threadsafe(super().drop)

    def _draw(self) -> str:
        return self.script.pop(0) if self.script else ""

    def _cut(self, answer: bytes, body: bytes) -> bytes:
        return (answer + body)[: self.cut_after]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Serves in a thread for the block."""
        listener = self._loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.endpoint_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.run_until_complete(self._end(listener))
            self._loop.close()

    async def _end(self, listener: asyncio.Server) -> None:
        listener.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@contextlib.contextmanager
def scripted_proxy(upstream: str) -> Iterator[ScriptedProxy]:
    proxy = ScriptedProxy(upstream)
    with proxy.running():
        yield proxy
