"""Starts a cluster as `ray start` would, and merges as another program that joins it.

Run as `python -m tests.runners.join_cluster ZOO OUTPUT`; prints what the test looks at. A process
of its own, because a process can be in one Ray only.
"""

from __future__ import annotations

import json
import os
import sys

import lego_ray


def main(zoo: str, output: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 128 * 2**20},
    )
    try:
        os.environ["RAY_ADDRESS"] = cluster.address
        record = lego_ray.merge(
            zoo, rank=4, output=output, n_init=2, runner="ray", address="auto", workers=2
        )
        left = not ray.is_initialized()
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        cpus = ray.cluster_resources()["CPU"]
        ray.shutdown()
        print(json.dumps({"status": record["status"], "left": left, "cpus_after": cpus}))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
