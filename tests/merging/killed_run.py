"""A run that is killed at a point of its work: a program.

`python -m tests.merging.killed_run POINT CALL ARGUMENTS`, the last a JSON object for the call.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import lego_ray
from lego_ray.storage import file_write
from lego_ray.storage.file import FileStore
from lego_ray.storage.lease import Lease
from lego_ray.storage.remains import PROBE

POINTS = ("probe", "temporary", "lease", "look", "checkpoint", "publish", "clear")


def killed(*given: Any, **named: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Any) -> None:
    """Kills the process before a function does its work, when something holds of its arguments."""
    real = getattr(owner, name)

    def does(*given: Any, **named: Any) -> Any:
        return killed() if when(*given) else real(*given, **named)

    setattr(owner, name, does)


def main(point: str, call: str, arguments: str) -> None:
    if point == "probe":
        before(FileStore, "delete", lambda store, key: key.startswith(PROBE))
    elif point == "temporary":
        file_write._UNNAMED = None  # as on a system without files that have no name
        before(file_write, "_link", lambda handle, name, path: Path(path).name == "run.json")
    elif point == "lease":
        before(Lease, "_tidy", lambda *given: True)
    elif point == "look":
        before(FileStore, "delete", lambda store, key: "/look-" in key)
    elif point == "checkpoint":
        before(FileStore, "create", lambda store, key, data: key.endswith(".checkpoint"))
    elif point == "publish":
        before(FileStore, "create", lambda store, key, data: key == "adapter_config.json")
    elif point == "clear":
        before(FileStore, "delete", lambda store, key: key.endswith(".checkpoint"))
    getattr(lego_ray, call)(**json.loads(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
