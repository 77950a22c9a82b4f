"""Kills Ray's workers below a process every few seconds, by SIGKILL, as a machine would."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from jobs.benchmarks import processes

# What a worker shows before it is given anything of a run.
IDLE = ("ray::IDLE", "ray::_import_stages")
# A node's own helpers, which show such a title too. Ray takes their end for the node's.
AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")


@dataclass(slots=True)
class Killer:
    """Who is killed next, and who was.

    Attributes:
        seed: Fixes the choices among as many workers.
        most: Most to kill in all, and then only such that work; None for no bound.
        killed: How many, by what they were doing, such as `ray::ShardActor.call`.
    """

    seed: int
    most: int | None = None
    killed: Counter[str] = field(default_factory=Counter)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @contextmanager
    def at_work(self, root: int, every: float) -> Iterator[None]:
        """Kills one worker below a process, again and again, for the block.

        Args:
            root: The process's pid; nothing that is not below it is touched.
            every: Seconds between two kills.
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
        found = {pid: title for pid in sorted(processes.tree(root)) if (title := _title(pid))}
        busy = [pid for pid, title in found.items() if title not in IDLE]
        if candidates := busy or (list(found) if self.most is None else []):
            chosen = self._random.choice(candidates)
            with suppress(ProcessLookupError):
                os.kill(chosen, signal.SIGKILL)
                # Tasks are named after their layers: `ray::solve model.layers.0`.
                self.killed[found[chosen].split(" ")[0]] += 1


def _title(pid: int) -> str:
    """What a worker shows that it is doing; empty for any other process."""
    title = processes.title(pid).strip()
    return title if title.startswith("ray::") and title not in AGENTS else ""
