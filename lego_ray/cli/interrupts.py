"""What SIGINT and SIGTERM do to a merge: it stops, keeps what is done, and says how to go on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn

import click

from lego_ray.errors import ObjectNotFound

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OF_SEVERAL = "finished tasks are kept beside each output; run the same command to continue"


@contextmanager
def resumable(output: str | None, otherwise: str = _OF_SEVERAL) -> Iterator[ExitStack]:
    """Ends the command with one line, and status 130 or 143, if it gets a signal to stop in the block.

    A second signal ends the process at once; what is kept is complete at any moment.

    Args:
        output: Where the merge of the block goes; None if it makes several.
        otherwise: How to go on, if it makes several.

    Yields:
        What to close before the process ends, after the line is printed; only after a signal.
    """
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        told.append(number)
        # If this came while Ray was connecting, Ray has set one to abort the process with.
        signal.alarm(0)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in _SIGNALS}
    last = ExitStack()
    try:
        yield last
    except BaseException:
        # Whatever came of it: Ray, for one, makes another error of what a handler raises.
        if not told:
            raise
        click.echo(f"interrupted; {_how_to_go_on(output, otherwise)}", err=True)
        last.close()
        sys.exit(128 + told[0])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _how_to_go_on(output: str | None, otherwise: str) -> str:
    """Asks the output, which knows whether the signal came before or after the last file."""
    from lego_ray.api.status import status

    if output is None:
        return otherwise
    nothing = "nothing was published and nothing is kept; run the same command to start again"
    try:
        found = status(output)
    except ObjectNotFound:
        return nothing
    except Exception:
        # Also what is no error of a store: the signal may have left a package half imported.
        return f"`lego-ray status {output}` shows its progress; run the same command to continue"
    if found["state"] == "published":
        return (
            f"merge {found['merge_id'][:12]} is published at {found['output']}; run the same "
            "command to make sure that it is in the catalog"
        )
    if found["state"] == "damaged":
        return f"files of the merge at {found['output']} are missing; run the same command again"
    if not found["tasks_saved"]:
        return nothing
    measured = found["sites_measured"]
    also = "" if measured is None else f", and what was measured of {measured},"
    return (
        f"nothing was published; {found['sites_done']} of {found['sites']} sites{also} are kept in "
        f"{found['kept_in']}; run the same command to continue from there"
    )
