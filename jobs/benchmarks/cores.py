"""Runs one function in several processes at once, as a merge's workers run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Result = TypeVar("Result")

# Long enough to import torch on a busy machine.
START_SECONDS = 120

_everyone: Barrier | None = None


def at_once(work: Callable[..., Result], arguments: Sequence[tuple[object, ...]]) -> list[Result]:
    """Calls a function in fresh processes, one for each set of arguments, all at the same time.

    Each process runs torch on one thread, as a worker does, and none begins before all are ready.

    Args:
        work: A module's function.
        arguments: Those of each process.

    Returns:
        What each returned, in order.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(arguments))
    with ProcessPoolExecutor(len(arguments), context, _prepare, (barrier,)) as pool:
        futures = [pool.submit(_together, work, each) for each in arguments]
        return [future.result() for future in futures]


def _prepare(barrier: Barrier) -> None:
    global _everyone
    _everyone = barrier
    torch.set_num_threads(1)


def _together(work: Callable[..., Result], arguments: tuple[object, ...]) -> Result:
    if _everyone is not None:
        _everyone.wait(START_SECONDS)
    return work(*arguments)
