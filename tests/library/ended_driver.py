"""A refresh on a cluster whose driver is killed, and the next one there: a program.

Run as `python -m tests.library.ended_driver LIBRARY OUTPUT BUDGET`. It is a separate process, because a
process can be in one Ray only. It prints what each refresh answered as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import lego_ray
from lego_ray.runners.ray.runner import RayRunner
from tests.merging.runs import kept, started, until

# Longer than any test: by its lease alone, nobody is taken over from here.
LONG = "1h"


def main(library: str, output: str, budget: str) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    address = str(cluster.address)
    flags = ["--runner", "ray", "--address", address, "--memory-budget", budget]

    def again(**options: Any) -> dict[str, Any]:
        where = {"runner": "ray", "address": address, "memory_budget": int(budget)}
        return dict(lego_ray.refresh(library, stale_after=LONG, **{**where, **options}))

    answers: dict[str, Any] = {}
    try:
        with started(["refresh", library, *flags]) as first:
            until(lambda: any(kept(each) for each in Path(output).glob("m/*")), first)
            first.send_signal(signal.SIGSTOP)  # at work, however fast this machine is
            answers["while it lives"] = again()
            lease = next(Path(output).glob(".lego-ray/refresh/lease-*.json"))
            known_by = json.loads(lease.read_text())["known_by"]
            first.kill()
            first.wait()
        other = RayRunner(address)
        until(lambda: other.has_ended(known_by))
        answers["elsewhere"] = again(runner="inline", address="local")
        answers["there"] = again()
        answers["then"] = again()
        answers["of a former cluster"] = other.has_ended({**known_by, "ray_cluster": "0" * 56})
        answers["not a cluster"] = RayRunner("127.0.0.1:1").has_ended(known_by)
        mine = RayRunner(address)
        here = mine.presence()
        mine.stop()  # for who holds a lease, no end
        answers["stopped"] = other.has_ended(here)
        mine.close()
        until(lambda: other.has_ended(here))
        answers["closed"] = other.has_ended(here)
    finally:
        cluster.shutdown()
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
