"""Runs a script against a cluster that Ray's autoscaler grows, apart from all else on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.surroundings import without_ray

ROOT = Path(__file__).parents[2]


def on_growing(
    workers: int, *script: str, seconds: float, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `grow_cluster` prints of `python SCRIPT...` on a cluster of up to some workers.

    Args:
        workers: Most workers, of one CPU each.
        script: The script and its words.
        seconds: When to give up.
        environ: Variables for its processes and those of the cluster.

    Raises:
        RuntimeError: If the cluster fails, with the end of its log.
    """
    inside = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
    # A separate network, because the head listens at a fixed address, and separate process numbers, so
    # that all its processes end with the first.
    alone = ["unshare", "--net", "--pid", "--fork", "--mount-proc"]
    alone += [] if os.geteuid() == 0 else ["--map-root-user"]
    alone += ["sh", "-c", inside, "sh"]
    # Short, for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="grow-") as folder:
        command = [sys.executable, "-m", "tests.runners.grow_cluster", folder, str(workers)]
        mine = without_ray() | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*alone, *command, *script],
            cwd=ROOT,
            env=mine | {"PYTHONPATH": str(ROOT)} | dict(environ or {}),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said
