"""A refresh that stops itself, as by SIGSTOP from outside, at a point of its work: a program.

`python -m tests.library.stopped_refresh RECIPE POINT` prints the record, or the error and its type.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import lego_ray
from lego_ray.catalog import changes, tenure
from lego_ray.errors import LegoRayError
from lego_ray.merging import finish

POINTS = ("claimed", "planned", "task", "publish", "published", "commit", "renumber")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stopping(owner: Any, name: str, *, after: bool = False, when: Any = None) -> None:
    """Makes a function stop the process before or after it does its work."""
    real = getattr(owner, name)

    def stops(*given: Any, **named: Any) -> Any:
        here = when is None or when(*given)
        if here and not after:
            stop()
        done = real(*given, **named)
        if here and after:
            stop()
        return done

    setattr(owner, name, stops)


def records_a_merge(change: changes.Rows, handle: object) -> bool:
    del handle
    return any(name.startswith("name:") for name, _ in change.transactions)


def main(recipe: str, point: str) -> None:
    def progress(plan: object, result: object) -> None:
        if point == ("planned" if result is None else "task"):
            stop()

    if point == "claimed":
        stopping(tenure.Tenure, "claim", after=True)
    elif point in ("publish", "published"):
        stopping(finish, "publish", after=point == "published")
    elif point == "commit":
        stopping(changes.Rows, "apply", when=records_a_merge)
    elif point == "renumber":
        stopping(changes.Renumbering, "apply")
    try:
        record = lego_ray.refresh(recipe, runner="inline", progress=progress)
        print(record["status"], flush=True)
    except LegoRayError as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
