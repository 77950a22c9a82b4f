"""What happens in a run, as records of the logger `lego_ray`.

A record has `event`, a short name, `plan`, the plan's digest, and `fields`, a mapping. Nothing is shown
unless whoever calls the library installs a handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lego_ray.errors import redacted

LOGGER = logging.getLogger("lego_ray")
# Without one, the standard library prints warnings on stderr by itself.
LOGGER.addHandler(logging.NullHandler())


def note(event: str, plan: str, level: int = logging.INFO, **fields: object) -> None:
    """Logs one event.

    Args:
        event: Its name.
        plan: Digest of the plan it is about.
        level: How much it matters.
        **fields: What there is to say: text and numbers.
    """
    if LOGGER.isEnabledFor(level):
        fields = {n: redacted(v) if isinstance(v, str) else v for n, v in fields.items()}
        said = "".join(f" {name}={value}" for name, value in fields.items())
        about = {"event": event, "plan": plan, "fields": fields}
        LOGGER.log(level, "%s %s%s", event, plan[:12], said, extra=about)


@contextmanager
def failures(
    plan: str, goes_on: Callable[[BaseException], bool] = lambda error: False
) -> Iterator[None]:
    """Logs the error that ends the block, and lets it pass.

    Args:
        plan: Digest of the plan it is about.
        goes_on: Whether the run goes on after an error, which is not a failure then.
    """
    try:
        yield
    except BaseException as error:
        if goes_on(error):
            raise
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            note("interrupted", plan, reason="the run was stopped; finished tasks are kept")
            raise
        note("failed", plan, logging.ERROR, error=type(error).__name__, reason=str(error))
        raise
