"""A run told to stop publishes nothing, says in one line how to go on, and leaves no process behind."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.merging.runs import FOLDER, SECONDS, kept, many_sites, merged, started, until, words
from tests.zoo import CONFIG, weights_of

RUNNERS = [
    pytest.param(("--runner", "inline"), id="inline"),
    pytest.param(("--runner", "ray", "--workers", "2"), id="ray", marks=pytest.mark.ray),
]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    return many_sites(tmp_path_factory.mktemp("interrupts"))


def processes_with(mark: str) -> list[int]:
    """Processes whose environment, which children inherit, holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # ended since, or not ours to look at
            continue
    return found


def ours(stderr: str) -> list[str]:
    """Lines that are not Ray's about a task it could not report the end of on its way down."""
    return [line for line in stderr.splitlines() if "task_manager.cc" not in line]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("flags", RUNNERS)
def test_a_signal_stops_a_run_that_can_go_on(
    flags: tuple[str, ...], number: signal.Signals, many: tuple[Path, int], tmp_path: Path
) -> None:
    zoo, budget = many
    command = words(zoo, tmp_path / "m", budget, *flags)
    mark = f"{tmp_path}-{os.getpid()}"
    with started(command, LEGO_RAY_TEST_MARK=mark) as process:
        until(lambda: len(kept(tmp_path / "m")) >= 2, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (128 + number, ""), err
    [line] = ours(err)
    said = re.fullmatch(
        r"interrupted; nothing was published; (\d+) of 40 sites are kept in "
        rf"{re.escape(str(tmp_path / 'm' / FOLDER))}; run the same command to continue from there",
        line,
    )
    assert said
    assert not (tmp_path / "m" / CONFIG).exists()
    until(lambda: not processes_with(mark))
    done = len(kept(tmp_path / "m"))
    in_flight = 2 if "ray" in flags else 0  # a worker keeps what it finishes on its way down
    assert 0 <= done - int(said[1]) <= in_flight
    record = merged(zoo, tmp_path / "m", budget)
    assert (record["status"], record["resumed_sites"]) == ("published", done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_is_done_says_so(
    number: signal.Signals, many: tuple[Path, int], tmp_path: Path
) -> None:
    zoo, budget = many
    marker = tmp_path / "m" / FOLDER / "run.json"
    # One task for all sites, which takes longer than to see the marker.
    command = words(zoo, tmp_path / "m", 2**30, "--runner", "inline", "--max-iter", "100000")
    with started(command) as process:
        until(marker.exists, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number
    assert re.fullmatch(r"interrupted; nothing was published and nothing is kept; .*\n", err)
    assert not (tmp_path / "m" / CONFIG).exists()
    merged(zoo, tmp_path / "m", budget)
    assert weights_of(tmp_path / "m")


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("processes", [2, 6])
def test_a_signal_while_ray_comes_up_is_one_line_too(
    processes: int, many: tuple[Path, int], tmp_path: Path
) -> None:
    zoo, budget = many
    mark = f"{tmp_path}-{os.getpid()}"
    command = words(zoo, tmp_path / "m", budget, "--runner", "ray", "--workers", "2")
    with started(command, LEGO_RAY_TEST_MARK=mark) as process:
        until(lambda: len(processes_with(mark)) >= processes, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (128 + signal.SIGTERM, "")
    [line] = ours(err)
    assert line.startswith("interrupted; nothing was published")
    until(lambda: not processes_with(mark))
