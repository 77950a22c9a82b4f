"""What a runner is, and the in-process one: the serial twin of every distributed path.

Importing this room's runners loads neither torch nor Ray, so that a command line can start Ray while
it still imports the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lego_ray.errors import InvalidOption
from lego_ray.options import keywords_of
from lego_ray.planning.options import RUNNERS, RunOptions
from lego_ray.runners.base import Runner
from lego_ray.runners.inline import InlineRunner


@contextmanager
def open_runner(given: str | Runner, options: RunOptions) -> Iterator[Runner]:
    """The runner given; or one made by that name for the block, and closed after it.

    Args:
        given: A runner, or the name of one.
        options: What was asked for; `address`, `workers` and `gpus` are for `make_runner`.
    """
    if not isinstance(given, str):
        yield given
        return
    where = {n: v for n, v in options.items() if n in ("address", "workers", "gpus")}
    mine = make_runner(given, **where)  # type: ignore[arg-type]
    try:
        yield mine
    finally:
        mine.close()


def make_runner(
    name: str, *, address: str = "local", workers: int | None = None, gpus: float = 0.0
) -> Runner:
    """Makes a runner.

    Args:
        name: `ray` or `inline`.
        address: Where Ray is: `local` starts one, `auto` joins the running cluster, `ray://...`.
        workers: Most tasks at once; None for one a CPU.
        gpus: Share of a GPU each task takes, such as 0.5 or 1; 0 for none.

    Raises:
        InvalidOption: If there is no such runner, workers is below 1, or Ray cannot give that share.
    """
    keywords_of(RunOptions)["workers"].check(workers)
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise InvalidOption("--gpus", f"{gpus:g} is neither a share from 0 to 1 nor a whole number")
    if name == "inline":
        return InlineRunner(gpus)
    if name == "ray":
        from lego_ray.runners.ray.runner import RayRunner

        return RayRunner(address=address, workers=workers, gpus=gpus)
    raise InvalidOption("--runner", f"{name!r} is not one of {', '.join(RUNNERS)}")
