"""What a task or an actor answered, or why it did not, in errors of the project's own."""

from __future__ import annotations

from typing import Any

from lego_ray.errors import LegoRayError, NotEnoughMemory, RunFailed
from lego_ray.faults import of_the_machine
from lego_ray.runners.ray.session import first_line


def get(answer: Any, what: str, often: str = "too often") -> Any:
    """An answer, once it is there.

    Args:
        answer: The reference to it.
        what: The task or actor asked, for the error.
        often: How often Ray tried before it gave a lost worker up.

    Raises:
        LegoRayError: What the task or actor raised, as it was raised.
        MissingPackage: If its node lacks a package.
        NotEnoughMemory: If it did not get the memory it asked for.
        RunFailed: If it failed in another way, or its worker was lost too often.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

    try:
        return ray.get(answer)
    except RayTaskError as error:
        if isinstance(error.cause, LegoRayError):
            # From it, for it has the trace of the worker.
            raise error.cause from error
        if cause := of_the_machine(error.cause):
            raise cause from error
        raise RunFailed(
            what,
            f"{type(error.cause).__name__}: {first_line(error.cause)}",
            "Please report what the same command shows with --debug; what is finished is kept.",
        ) from error
    except OutOfMemoryError as error:
        raise NotEnoughMemory(
            what, f"its node ran out of memory, and Ray ended its worker {often}"
        ) from error
    except RayError as error:
        raise RunFailed(
            what,
            f"its worker was lost {often}: {first_line(error)}",
            "If it ran out of memory, lower --memory-budget or --workers.",
        ) from error
