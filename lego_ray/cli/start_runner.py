"""The runner of a command, brought up beside the imports that its work needs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lego_ray.runners.base import Runner


def starting(given: dict[str, Any], last: ExitStack) -> Runner:
    """Takes the runner's options out of a command's, and begins to start it.

    Ray comes up while torch is imported. On an error it is left to the end of this process, so that
    the message need not wait for it.

    Args:
        given: The command's options.
        last: What is closed before the process ends, if it gets a signal to stop.
    """
    from lego_ray.planning.options import RUNNER_OPTIONS
    from lego_ray.runners.open import make_runner

    where = {k: given.pop(k) for k in RUNNER_OPTIONS if k in given}
    runner = make_runner(given.pop("runner"), **where)
    runner.start()
    last.callback(runner.close)
    return runner
