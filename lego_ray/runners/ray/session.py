"""A Ray that this process starts or joins, brought up and taken down beside other work.

A local Ray takes four seconds to start, most of them waiting; importing torch takes two of computing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from lego_ray.errors import BadInput, LegoRayError, RunFailed
from lego_ray.faults import of_the_machine
from lego_ray.journal import note
from lego_ray.runners.ray.alone import MODE, alone, forget, put_back
from lego_ray.runners.ray.joining import is_refusal, knock, refused
from lego_ray.runners.ray.signals import sigterm_kept

# Set before Ray is imported: it reads them then.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Ray's warning about it is for GPUs, and there is no use for it on a machine without.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Otherwise the first driver waits for Ray's first workers while it holds the interpreter: for ever, and
# deaf to signals, if one of them is killed before it is counted.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

# Results wait in the object store only until the driver fetches them, at most one per running task.
OBJECT_STORE_BYTES = 512 * 2**20
# Ray gives its own processes 30 s to come up, which a busy machine may not have for them; each start
# after the first finds more in the page cache.
LOCAL_STARTS = 3


class RaySession:
    """Ray, from `start` to `stop`. A Ray that this process had up before is used and left up.

    One thread of its own does both: the kernel ends Ray's processes when the thread that started
    them ends, so that none is left over, and that must not happen in between.
    """

    def __init__(self, address: str, workers: int | None) -> None:
        self._address = address
        self._workers = workers
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to bring Ray up; a second call does nothing."""
        if self._thread is None:
            note("starting Ray", "", address=self._address)
            self._thread = threading.Thread(target=self._live, name="ray-session", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Waits until Ray is up.

        Raises:
            BadInput: If it cannot be reached, or lets this process not in.
            MissingPackage: If this Python has no Ray, or one that cannot be loaded.
            NotEnoughMemory: If there is no memory for it.
            RunFailed: If it cannot be started.
        """
        self.start()
        self._ready.wait()
        if self._error is not None:
            if isinstance(self._error, LegoRayError):
                raise self._error
            if cause := of_the_machine(self._error):
                raise cause from self._error
            reason = first_line(self._error)
            if self._address == "local":
                raise RunFailed(
                    "a local Ray",
                    f"it could not be started: {reason}",
                    "Run again when this machine is less busy, or with --runner inline.",
                ) from self._error
            if is_refusal(self._error):
                raise refused(self._address) from self._error
            raise BadInput(
                f"--address {self._address}",
                f"Ray could not be reached: {reason}",
                "Use --address local, or start a cluster with `ray start --head`.",
            ) from self._error

    def stop(self) -> None:
        """Begins to take Ray down."""
        self._stop.set()

    def close(self) -> None:
        """Takes Ray down and waits for it."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _live(self) -> None:
        try:
            import ray
        except BaseException as error:  # handed to the thread that waits
            self._error = error
            self._ready.set()
            return
        mine = not ray.is_initialized()
        before = {MODE: os.environ.get(MODE)}
        warming: list[Any] = []
        try:
            if mine:
                with sigterm_kept():
                    self._connect(ray.init)
            if self._address == "local":
                # Workers import torch while the driver still reads headers.
                warming = _in_a_thread(_warm_up)
        except BaseException as error:  # handed to the thread that waits
            self._error = error
        self._ready.set()
        self._stop.wait()
        for task in warming:
            with suppress(Exception):  # unasked, the loss of its worker would be printed
                ray.get(task, timeout=0)
        if mine:
            ray.shutdown()
            put_back(before)  # Ray may have set it, to join with a token that it found
            forget()

    def _connect(self, init: Callable[..., Any]) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address == "local":
            for starts_left in reversed(range(LOCAL_STARTS)):
                try:
                    with alone():
                        init(
                            address="local",
                            num_cpus=self._workers,
                            include_dashboard=False,
                            object_store_memory=OBJECT_STORE_BYTES,
                            **quiet,
                        )
                except Exception as error:  # Ray has no type for it
                    if not starts_left or "timed out during startup" not in str(error):
                        raise
                else:
                    return
        else:
            knock(self._address)
            init(address=self._address, **quiet)


def first_line(error: BaseException) -> str:
    """An error's message, without its trace."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _warm_up() -> list[Any]:
    """Gives each worker something to import; returns what to ask Ray about it."""
    import ray

    warm = ray.remote(_import_stages).options(num_cpus=1)
    return [warm.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]


def _in_a_thread(work: Callable[[], list[Any]]) -> list[Any]:
    """What a function returns on a thread that no other task is submitted from.

    Ray numbers tasks by thread. One that was in an earlier Ray of this process numbers on as its
    driver, and so does the thread that started this one: two tasks of one number end the process.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _import_stages() -> None:
    import torch  # noqa: F401

    import lego_ray.tasks.solve  # noqa: F401
