"""Merges on a cluster of three nodes and takes one away, with all it runs, in the middle of the work.

Run as `python -m tests.runners.lose_node ZOO OUTPUT BUDGET TITLE N_INIT DONE`: takes away a node that
has a worker with the title once DONE tasks are finished; until then the worker stands still, so that its
own task is not among them. It is a separate process, because a process can be in one Ray only.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import lego_ray
from tests.runners.killing import POLL_SECONDS, titled

MIB = 2**20


def main(zoo: str, output: str, budget: str, title: str, n_init: str, after: str) -> None:
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 96 * MIB}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    # Each node has the memory for the whole job: what is left must be able to end it.
    nodes = [cluster.add_node(num_cpus=1, memory=8 * 2**30, **small) for _ in range(2)]
    lost: list[int] = []
    done = threading.Event()
    tasks_done = Counted("task done")

    def take_away() -> None:
        while not done.wait(POLL_SECONDS):
            for node in nodes:
                raylet = _pid(node)
                for worker in titled(title, below=raylet)[:1]:
                    with _standing_still(worker) if int(after) else nullcontext():
                        while tasks_done.count < int(after) and not done.wait(POLL_SECONDS):
                            pass
                        lost.append(raylet)
                        cluster.remove_node(node, allow_graceful=False)
                    return

    hunter = threading.Thread(target=take_away)
    hunter.start()
    try:
        record = lego_ray.merge(
            zoo,
            rank=4,
            output=output,
            n_init=int(n_init),
            tol=0.0,
            runner="ray",
            address=cluster.address,
            memory_budget=int(budget),
        )
        done.set()
        hunter.join()
        print(json.dumps({"status": record["status"], "lost": len(lost)}))
    finally:
        done.set()
        cluster.shutdown()


class Counted(logging.Handler):
    """Counts the events of one name that a run logs in this process."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event, self.count = event, 0
        logging.getLogger("lego_ray").addHandler(self)
        logging.getLogger("lego_ray").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage().startswith(self.event)


@contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # so that it sees that its node is gone
            os.kill(pid, signal.SIGCONT)


def _pid(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


if __name__ == "__main__":
    main(*sys.argv[1:])
