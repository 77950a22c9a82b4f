"""Kills Ray's workers below a process, by SIGKILL, as a machine would.

The soak kills one every few seconds, whatever it does. Tests kill those that show a given title, and
look often enough to hit a call that takes milliseconds.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from jobs.benchmarks import processes

# What a worker shows before it is given anything of a run.
IDLE = ("ray::IDLE", "ray::_import_stages")
# A node's own helpers, which show such a title too. Ray takes their end for the node's.
AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")
# To list all processes takes 0.1 s, so a list is kept for as long: workers live for seconds.
LIST_SECONDS = 0.1


@dataclass(slots=True)
class Killer:
    """Chooses which worker to kill next, and counts those killed.

    Attributes:
        seed: Fixes the choices among as many workers.
        most: Most workers to kill; idle ones are then spared. None for no limit.
        title: Only workers whose title begins so are killed, such as `ray::ShardActor.call`.
        killed: How many, by what they were doing, such as `ray::ShardActor.call`.
        pids: Those killed, in order.
    """

    seed: int = 0
    most: int | None = None
    title: str = "ray::"
    killed: Counter[str] = field(default_factory=Counter)
    pids: list[int] = field(default_factory=list)
    _random: random.Random = field(init=False)
    _listed: tuple[float, set[int]] = field(init=False, default=(-LIST_SECONDS, set()))

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @contextmanager
    def at_work(self, root: int, every: float) -> Iterator[None]:
        """Kills one worker below a process, again and again, for the block.

        Args:
            root: The process's pid; nothing that is not below it is touched.
            every: Seconds between two kills, or between two looks for a worker with the title.
        """
        done = threading.Event()

        def hunt() -> None:
            while not done.wait(every):
                if self.most is None or self.killed.total() < self.most:
                    self.kill_one(root)

        hunter = threading.Thread(target=hunt)
        hunter.start()
        try:
            yield
        finally:
            done.set()
            hunter.join()

    def kill_one(self, root: int) -> None:
        """Kills a worker that does something for the run; if none does and all may go, any other."""
        found = {pid: title for pid in self._below(root) if (title := self._shown(pid))}
        busy = [pid for pid, title in found.items() if title not in IDLE]
        if candidates := busy or (list(found) if self.most is None else []):
            chosen = self._random.choice(candidates)
            with suppress(ProcessLookupError):
                os.kill(chosen, signal.SIGKILL)
                # Tasks are named after their layers: `ray::solve model.layers.0`.
                self.killed[found[chosen].split(" ")[0]] += 1
                self.pids.append(chosen)

    def _below(self, root: int) -> list[int]:
        """Processes below one that were not killed, in order; listed at most `LIST_SECONDS` ago."""
        now = time.monotonic()
        if now - self._listed[0] > LIST_SECONDS:
            self._listed = (now, processes.tree(root))
        return sorted(self._listed[1].difference(self.pids))

    def _shown(self, pid: int) -> str:
        """What a worker shows that it is doing; empty for any other process."""
        title = processes.title(pid).strip()
        return title if title.startswith(self.title) and title not in AGENTS else ""
