"""Actors that each hold a copy of one object and are asked for one thing at a time."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lego_ray.errors import NotEnoughMemory, RunFailed
from lego_ray.runners.ray.answers import get
from lego_ray.runners.ray.drift import check_versions, versions_here
from lego_ray.runners.ray.session import RaySession
from lego_ray.runners.ray.teams import LOOK_AGAIN_SECONDS
from lego_ray.runners.ray.waiting import Wait
from lego_ray.storage.carried import settings_here, use_settings


class MakerActor:
    """Holds an object and calls its `reply`."""

    def __init__(self, packed: bytes, here: Mapping[str, Any]) -> None:
        """Takes the place of the driver, as far as there is one like it.

        Args:
            packed: The object, pickled.
            here: What `_driver` gave.
        """
        self._packed = packed
        self._versions = here["versions"]
        self._maker: Any = None
        use_settings(here["settings"])
        sys.path += [folder for folder in here["path"] if folder not in sys.path]
        if Path(here["folder"]).is_dir():  # where a command's own files are
            os.chdir(here["folder"])

    def reply(self, request: Any) -> Any:
        """What the object replies."""
        check_versions(self._versions, "a trial")
        self._maker = self._maker or pickle.loads(self._packed)
        return self._maker.reply(request)

    def close(self) -> None:
        """Closes the object."""
        if self._maker is not None:
            self._maker.close()


class RayMakers:
    """Some actors with copies of an object; for one that is lost, the next request gets another."""

    def __init__(
        self, maker: Any, *, address: str = "local", workers: int | None = None, gpus: float = 0.0
    ) -> None:
        """Brings Ray up, and the actors.

        Args:
            maker: The object, which can be pickled, with `reply(request)` and `close()`.
            address: As for `RayRunner`.
            workers: How many actors; None for one a CPU of the cluster, or as many as GPUs allow.
            gpus: Share of a GPU that each takes; 0 for none.

        Raises:
            BadInput: If Ray cannot be started or reached.
        """
        self._session = RaySession(address, workers)
        self._joined = address != "local"
        self._gpus = gpus
        self._actors: list[Any] = []
        try:
            self._session.wait()
            self.size = workers or self._room()
            self._packed = pickle.dumps(maker, pickle.HIGHEST_PROTOCOL)
            self._actors = [self._started() for _ in range(self.size)]
        except BaseException:
            self._session.close()
            raise

    def _room(self) -> int:
        import ray

        there = ray.cluster_resources()
        room = there.get("CPU", 1.0)
        return max(1, int(min(room, there.get("GPU", 0.0) / self._gpus) if self._gpus else room))

    def _started(self) -> Any:
        import ray

        # Never started again by Ray: until it is up, each call would fail at once.
        actor = ray.remote(MakerActor).options(
            num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0
        )
        here = {
            "versions": versions_here(),
            "settings": settings_here(),
            "path": list(sys.path),
            "folder": str(Path.cwd()),
        }
        return actor.remote(self._packed, here)

    def replies(self, requests: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields each request and its reply, or the error of a worker that was lost.

        Args:
            requests: What is asked, all at once where there are as many actors.

        Raises:
            LegoRayError: What the object raised.
            ClusterTooSmall: If no actor finds room.
        """
        import ray

        waiting, idle = list(requests), list(self._actors)
        asked: dict[Any, tuple[Any, Any]] = {}
        wait = Wait(None, joined=self._joined)
        gpus = {"GPU": self._gpus} if self._gpus else {}
        while waiting or asked:
            while waiting and idle:
                actor, request = idle.pop(0), waiting.pop(0)
                asked[actor.reply.remote(request)] = actor, request
            done, _ = ray.wait(list(asked), num_returns=1, timeout=LOOK_AGAIN_SECONDS)
            if not done:
                if self._joined:
                    wait.look("a trial", "", [{"CPU": 1.0, "memory": 0.0, **gpus}])
                continue
            wait.moved()
            actor, request = asked.pop(done[0])
            reply: Any = None
            try:
                reply = get(done[0], "a trial", "with it")
            except RunFailed as error:
                if type(error) not in (RunFailed, NotEnoughMemory):
                    raise
                reply, actor = error, self._replaced(actor)
            idle.append(actor)
            yield request, reply

    def _replaced(self, actor: Any) -> Any:
        """Another actor in the place of one that failed, which need not have ended."""
        import ray

        self._actors.remove(actor)
        with suppress(Exception):
            ray.kill(actor)
        self._actors.append(self._started())
        return self._actors[-1]

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        import ray

        with suppress(Exception):  # one that is lost has nothing left to close
            ray.get([actor.close.remote() for actor in self._actors], timeout=5)
        for actor in self._actors:
            with suppress(Exception):
                ray.kill(actor)
        self._session.close()
