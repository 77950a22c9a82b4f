"""Runs of the command line that are cut short, and zoos that give them time for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import StoreUnavailable
from lego_ray.storage.file import FileStore
from tests.zoo import Site, write_zoo

# Makes a site of theirs take a tenth of a second or so.
N_INIT = 30
RANK = 8
FOLDER = ".lego-ray"
# To start Ray takes 5 s, and several times that on a machine with other work.
SECONDS = 120


def many_sites(root: Path, count: int = 40) -> tuple[Path, int]:
    """A zoo, and the memory budget that makes each of its sites a task."""
    sites = tuple(Site(f"layers.{i}.q_proj", (96,), 64) for i in range(count))
    zoo = write_zoo(root / "zoo", 6, sites=sites, rank=RANK)
    whole = lego_ray.plan(zoo, rank=RANK, n_init=N_INIT)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    assert len(lego_ray.plan(zoo, rank=RANK, n_init=N_INIT, memory_budget=budget).tasks) == count
    return zoo, budget


def words(zoo: Path | str, output: Path | str, budget: int, *more: object) -> list[str]:
    """The command that merges such a zoo, slowly."""
    flags = ("--rank", RANK, "--name", "m", "--n-init", N_INIT, "--memory-budget", budget, "--json")
    return [*map(str, ("merge", zoo, "--output", output, *flags, *more))]


def kept(output: Path) -> list[Path]:
    """The files of finished tasks beside an output."""
    return sorted((output / FOLDER).glob("*/*.checkpoint"))


@contextmanager
def started(command: list[str], **environ: str) -> Iterator[subprocess.Popen[str]]:
    """The command line, running; killed if it still runs at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "lego_ray", *command],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(holds: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Waits until something holds, as long as the process that brings it about is running."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        if process is not None and process.poll() is not None and not holds():
            raise AssertionError(
                f"it ended first, with {process.returncode}: {process.communicate()}"
            )
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(command: list[str], **environ: str) -> dict[str, Any]:
    """Runs the command line to its end and returns the record it prints."""
    with started(command, **environ) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err[-3000:]
    return dict(json.loads(out))


def merged(zoo: Path | str, output: Path | str, budget: int) -> dict[str, Any]:
    """What `words` merges, by a call in this process."""
    return lego_ray.merge(
        zoo,
        rank=RANK,
        output=output,
        name="m",
        n_init=N_INIT,
        memory_budget=budget,
        runner="inline",
    )


def fails_after(survived: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes the disk fail after so many files were written; returns their keys in that order."""
    real, written = FileStore.create, list[str]()

    def fails(store: FileStore, key: str, data: bytes) -> None:
        if not key.startswith(".lego-ray-probe"):
            if len(written) == survived:
                raise StoreUnavailable(store.uri, "the disk is gone")
            written.append(key)
        real(store, key, data)

    monkeypatch.setattr(FileStore, "create", fails)
    return written
