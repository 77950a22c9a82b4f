"""A folder or a file that must not be read is refused alone, and the others are merged."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.zoo import CONFIG, WEIGHTS, write_adapter, write_zoo

# Of <linux/prctl.h> and <linux/capability.h>: what lets root read whatever it likes.
_DROP, _DAC_OVERRIDE, _DAC_READ_SEARCH = 24, 1, 2


def _as_anyone_else() -> None:
    """Takes the right to read everything from a child of root; anyone else has it not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
            libc.prctl(_DROP, capability, 0, 0, 0)


def run(*words: object) -> tuple[int, dict[str, Any]]:
    """Runs the command line without the rights of root; returns the exit status and the object."""
    command = [sys.executable, "-m", "lego_ray", *map(str, words), "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_as_anyone_else,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[Path]:
    """Two adapters, a folder that is closed and an adapter whose weights are."""
    place = write_zoo(tmp_path / "zoo", 2)
    write_adapter(place / "closed", seed=9)
    (place / "lost+found").mkdir()
    (place / "lost+found").chmod(0)
    (place / "closed" / WEIGHTS).chmod(0)
    yield place
    (place / "lost+found").chmod(0o700)


def test_the_others_are_merged_and_each_closed_one_is_named(zoo: Path, tmp_path: Path) -> None:
    words = ("merge", zoo, "--rank", 4, "--method", "linear", "--runner", "inline")
    status, record = run(*words, "--output", tmp_path / "m")
    assert status == 0, record
    assert [Path(uri).name for uri in record["adapters"]] == ["a0", "a1"]
    refused = {Path(each["adapter"]).name: each["reason"] for each in record["refused"]}
    assert sorted(refused) == ["closed", "lost+found"]
    for name, reason in refused.items():
        assert reason.startswith("AccessDenied: "), reason
        assert f"{zoo}/{name}" in reason
        assert reason.endswith("Check owner and permissions, or leave it out with --exclude.")


def test_an_output_with_a_closed_folder_is_written_and_asked(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "m" / "lost+found").mkdir(parents=True)
    (tmp_path / "m" / "lost+found").chmod(0)
    words = ("--rank", 4, "--method", "linear", "--runner", "inline", "--output", tmp_path / "m")
    try:
        status, record = run("merge", zoo, *words)
        assert (status, record.get("status")) == (0, "published"), record
        status, record = run("status", tmp_path / "m")
        assert (status, record.get("state")) == (0, "published"), record
    finally:
        (tmp_path / "m" / "lost+found").chmod(0o700)


def test_exclude_leaves_closed_ones_out_without_a_word(zoo: Path) -> None:
    words = ("--exclude", "lost+found", "--exclude", "closed")
    status, record = run("plan", zoo, "--rank", 4, *words)
    assert (status, record["refused"]) == (0, []), record


def test_inspect_names_what_is_closed(zoo: Path) -> None:
    status, record = run("inspect", zoo)
    assert (status, record["taken"], record["refused"]) == (0, 2, 2), record


def test_a_closed_source_is_an_error(zoo: Path) -> None:
    status, record = run("scan", zoo / "lost+found")
    assert (status, record["error"]["type"]) == (2, "AccessDenied")
    (zoo / "a0" / CONFIG).chmod(0)
    status, record = run("plan", zoo / "a0", "--rank", 4)
    assert status == 2
    assert "Permission denied" in json.dumps(record)
