"""A cluster that Ray's autoscaler grows on this machine, and what runs on it.

Run as `python -m tests.runners.grow_cluster FOLDER WORKERS SCRIPT...`: starts a head without CPUs that
may get workers of one CPU, runs `python SCRIPT...` against it, and prints as JSON how many workers there
were at most, how many did not leave again, and what the script printed. A process of its own, because a
process can be in one Ray only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ADDRESS = "127.0.0.1:6379"
HEAD = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"  # as the fake provider has it
MIB = 2**20
# A busy machine takes long to start a raylet; the test's own timeout ends what hangs.
STARTS_SECONDS = 120
# Ray gives a raylet half a minute to start, which is too little on a machine that does much else.
STARTS = 4
LEAVES_SECONDS = 150
ENDS_SECONDS = 60
# Commands that would install Ray on a node; there is none to install here.
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup")


def config(workers: int) -> dict[str, object]:
    """What `ray up` would be given: as `deploy/` has it, a head without CPUs and workers from none."""
    provider = {"module": "tests.runners.fake_nodes.FakeNodes", "gcs_address": ADDRESS}
    worker = {"CPU": 1, "memory": 1024 * MIB, "object_store_memory": 80 * MIB}
    return {
        "cluster_name": "growing",
        "max_workers": workers,
        "idle_timeout_minutes": 0.05,
        "upscaling_speed": 100,
        "provider": {"type": "external", "launch_multiple": True, "head_node_id": HEAD, **provider},
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": worker,
                "node_config": {},
                "min_workers": 0,
                "max_workers": workers,
            },
        },
        **{f"{name}_commands": [] for name in COMMANDS},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def main(folder: str, workers: str, *script: str) -> None:
    given = Path(folder) / "config.json"
    given.write_text(json.dumps(config(int(workers))))
    environ = os.environ | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    words += ["--num-cpus=0", f"--memory={512 * MIB}", f"--object-store-memory={80 * MIB}"]
    words += ["--include-dashboard=false", f"--temp-dir={folder}/ray"]
    words += [f"--autoscaling-config={given}"]
    log = Path(folder) / "head.log"
    for number in range(1, STARTS + 1):
        with log.open("w") as out:
            head = subprocess.Popen(words, env=environ, stdout=out, stderr=out)
        try:
            if _is_joined(head, last=number == STARTS):
                print(json.dumps(_run(head, list(script))))
                return
        except BaseException:
            print(log.read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            _end(head)


def _end(head: subprocess.Popen[bytes]) -> None:
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(ENDS_SECONDS)
    except subprocess.TimeoutExpired:  # its processes end with their table
        head.kill()
        head.wait()


def _is_joined(head: subprocess.Popen[bytes], *, last: bool) -> bool:
    """Joins a head; whether it came up, unless this is the last try."""
    import ray

    try:
        _until_up(head)
        ray.init(ADDRESS, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, SystemExit):
        if last:
            raise
        ray.shutdown()
        return False
    return True


def _run(head: subprocess.Popen[bytes], script: list[str]) -> dict[str, object]:
    import ray

    done = subprocess.Popen(
        [sys.executable, *script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    most = 0
    while done.poll() is None:
        if head.poll() is not None:
            done.kill()
            raise SystemExit("the head ended")
        most = max(most, _workers())
        time.sleep(0.2)
    out, err = done.communicate()
    end = time.monotonic() + LEAVES_SECONDS
    while (left := _workers()) and time.monotonic() < end:
        time.sleep(0.2)
    ray.shutdown()
    return {"rc": done.returncode, "out": out, "err": err, "most": most, "left": left}


def _until_up(head: subprocess.Popen[bytes]) -> None:
    import socket

    host, _, port = ADDRESS.partition(":")
    end = time.monotonic() + STARTS_SECONDS
    while head.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"the head did not come up: {head.poll()}")


def _workers() -> int:
    import ray

    return sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())


if __name__ == "__main__":
    main(*sys.argv[1:])
