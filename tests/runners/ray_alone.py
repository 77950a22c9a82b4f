"""Brings up a local Ray as a run does, between two of a user's, and prints what the test looks at.

Run as `python -m tests.runners.ray_alone`. A process of its own, because tokens are read once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.benchmarks import processes
from lego_ray.runners.ray.session import RaySession
from tests.runners.listening import listening
from tests.surroundings import without_ray

# Ray gives its own processes 30 s, which a busy machine may not have for them.
STARTS = 8

# Asks as a program of the same user that was told nothing, or something wrong.
ASKS = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1])
except Exception as error:
    print(type(error).__name__)
else:
    print("let in")
"""


def main() -> None:
    import ray

    # What a Ray of the user's leaves in the environment is the user's.
    up()
    users = dict(os.environ), at()
    session = RaySession("local", 1)
    session.wait()
    used = (dict(os.environ), at()) == users
    session.close()
    used = used and (dict(os.environ), at()) == users and ray.is_initialized()
    ray.shutdown()

    before = dict(os.environ)
    home = files(Path.home())
    session = RaySession("local", 1)
    session.wait()
    during = changed(before)
    pid = ray.get(ray.remote(own_pid).remote())
    titles = {p: Path(processes.title(p)).name for p in processes.tree(os.getpid())}
    found = [(titles[p], address) for p in titles for address in listening(p)]
    driver = listening(os.getpid())
    commands = [Path(f"/proc/{p}/cmdline").read_text().replace("\0", " ") for p in titles]
    gcs = ray.get_runtime_context().gcs_address
    answers = {
        "no token": asked(gcs),
        "wrong token": asked(gcs, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64),
    }
    worker = listening(pid)
    session.close()

    after = changed(before)
    same_home = files(Path.home()) == home
    up()
    again = at() == users[1] and ray.get(ray.remote(own_pid).remote()) > 0
    ray.shutdown()
    print(
        json.dumps(
            {
                "used": used,
                "during": during,
                "after": after,
                "home": same_home,
                "listening": found,
                "worker": worker,
                "driver": driver,
                "answers": answers,
                "unused": [
                    c for c in commands if re.search(r"/(log_)?monitor\.py|/dashboard\.py", c)
                ],
                "gcs": any("gcs_server" in c for c in commands),
                "again": again,
            }
        )
    )


def up() -> None:
    """Starts a Ray as a user does, again where it ran out of time as it may on a busy machine."""
    import ray

    options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    for starts_left in reversed(range(STARTS)):
        try:
            ray.init(address="local", log_to_driver=False, logging_level="ERROR", **options)
        except Exception as error:
            if not starts_left or "timed out during startup" not in str(error):
                raise
        else:
            return


def own_pid() -> int:
    """Of the worker that is asked."""
    return os.getpid()


def at() -> str:
    """Where the Ray of this process is."""
    import ray

    return str(ray.nodes()[0]["NodeManagerAddress"])


def changed(before: dict[str, str]) -> dict[str, Any]:
    """Variables of the environment that are not as they were."""
    now = dict(os.environ)
    return {k: now.get(k) for k in {*before, *now} if before.get(k) != now.get(k)}


def files(home: Path) -> list[str]:
    """Every file in a home directory."""
    return sorted(str(path) for path in home.rglob("*"))


def asked(gcs: str, **environ: str) -> str:
    """What a program is told that asks Ray's head something."""
    done = subprocess.run(
        [sys.executable, "-c", ASKS, gcs],
        env={**without_ray(), **environ, "HOME": os.devnull},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
