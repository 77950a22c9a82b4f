"""Progress is shown on a real terminal, whatever its width, and nowhere else."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.api.progress_bar import ProgressBar
from lego_ray.cli.logs import shown
from lego_ray.cli.main import cli, main
from lego_ray.cli.progress import NAME_COLUMNS, SiteProgress
from lego_ray.planning.plan import Plan
from lego_ray.runners.ray.session import RaySession
from lego_ray.tasks.values import TaskResult
from tests.zoo import Site, write_zoo

SITES = tuple(Site(f"layers.{i}.q_proj", (64,), 16) for i in range(4))
RATE = r"[\d.]+ ?(site/s|s/site)"
LEFT = r"\[\d\d:\d\d<\d\d:\d\d"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", 3, sites=SITES)


def on_terminal(
    does: Callable[[], object], monkeypatch: pytest.MonkeyPatch, columns: int
) -> list[str]:
    """The lines that a terminal of some width was sent, one after another at the same place."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                seen.extend(os.read(master, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(slave, "w", encoding="utf-8") as stderr, monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stderr)
            does()
    finally:
        reader.join()
        os.close(master)
    return [line for line in re.split(r"[\r\n]+", seen.decode()) if line.strip()]


@pytest.mark.parametrize("columns", [100, 60])
def test_a_merge_shows_its_rate_and_the_time_left(
    columns: int,
    zoo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    words = ["merge", str(zoo), "--rank", "2", "--output", str(tmp_path / "m")]
    lines = on_terminal(
        lambda: main([*words, "--runner", "inline", "--json"]), monkeypatch, columns
    )
    assert all(len(line) <= columns for line in lines)
    assert "\x1b[3" not in "".join(lines)
    assert re.search(LEFT, lines[-1])
    assert re.search(RATE, lines[-1])
    assert "4/4" in lines[-1]
    if columns == 100:
        assert re.search(r"read, [\d.]+ [KM]iB/s", lines[-1])
    assert capsys.readouterr().out.startswith("{")


def test_a_long_name_leaves_room_for_the_time_left(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lego_ray.plan(zoo, rank=2, name="support-in-all-languages-of-the-north")

    def follow() -> None:
        with SiteProgress() as progress:
            progress(plan, None)

    lines = on_terminal(follow, monkeypatch, 50)
    assert all(len(line) <= 50 for line in lines)
    assert lines[-1].startswith("support-in-all-la...:")
    assert len(lines[-1].partition(":")[0]) == NAME_COLUMNS
    assert "[00:00<" in lines[-1]


def test_scan_and_verify_show_theirs(
    zoo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    merged = tmp_path / "m"
    lego_ray.merge(zoo, rank=2, output=merged, runner="inline")
    scanned = on_terminal(lambda: main(["scan", str(zoo)]), monkeypatch, 100)
    assert re.search(rf"^scan: 100%.* 3/3 {LEFT}, *[\d.]+ ?adapter/s", scanned[-1])
    verify = ["verify", str(merged), "--sources", str(zoo)]
    verified = on_terminal(lambda: main(verify), monkeypatch, 100)
    assert re.search(rf"^verify: 100%.* 4/4 {LEFT}, *{RATE}", verified[-1])


def test_things_without_a_name_have_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(bar: ProgressBar) -> None:
        bar(1, 3)
        bar(3, 3)

    for unit, rate in ((None, None), ("file", r"[\d.?]+ ?file/s")):
        bar = ProgressBar() if unit is None else ProgressBar("read", unit)
        lines = on_terminal(partial(follow, bar), monkeypatch, 100)
        assert re.search(rf"3/3 {LEFT}", lines[-1])
        assert not re.search(r"\bit\b|/it|it/", lines[-1])
        assert bool(re.search(r"/s|s/", lines[-1])) == (rate is not None)


def test_where_there_is_no_terminal_nothing_is_shown(zoo: Path, tmp_path: Path) -> None:
    words = ["merge", str(zoo), "--rank", "2", "--output", str(tmp_path / "m")]
    done = CliRunner().invoke(cli, [*words, "--runner", "inline"])
    assert done.exit_code == 0
    assert done.stderr == ""
    assert CliRunner().invoke(cli, ["scan", str(zoo)]).stderr == ""


def test_a_terminal_is_told_at_once_that_ray_starts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sessions = []

    def start() -> None:
        with shown("none"):
            sessions.append(RaySession("local", 1))
            monkeypatch.setattr(sessions[-1], "_live", lambda: None)
            sessions[-1].start()
            sessions[-1].start()  # it is said once

    (line,) = on_terminal(start, monkeypatch, 100)
    assert line.endswith("starting Ray  address=local")
    start()
    assert capfd.readouterr().err == ""


def test_what_an_earlier_run_did_says_nothing_of_the_rate(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[tuple[Plan, TaskResult | None]] = []
    lego_ray.merge(
        zoo,
        rank=2,
        output=tmp_path / "m",
        runner="inline",
        progress=lambda plan, result: results.append((plan, result)),
    )
    (plan, _), (_, result) = results
    assert result is not None
    kept = replace(result, bytes_read=0, requests=0, seconds=0.0)

    def follow() -> None:
        with SiteProgress() as progress:
            progress(plan, None)
            progress(plan, kept)

    lines = on_terminal(follow, monkeypatch, 100)
    assert "4/4" in lines[-1]
    assert re.search(r"[ ,]0\.00site/s|\?site/s", lines[-1])
