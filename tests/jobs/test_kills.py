"""The harness that kills commands: the kills hit, a right end passes, and a wrong one is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.kills.__main__ import differences, snapshot

NOTHING: dict[str, Any] = {"files": {}, "rows": {}, "problems": [], "left": []}


@pytest.mark.timeout(600)
def test_commands_killed_anywhere_end_as_if_they_never_were(tmp_path: Path) -> None:
    if not (sys.platform == "linux" and shutil.which("cc")):
        if os.environ.get("CI"):
            pytest.fail("needs Linux and a C compiler")
        pytest.skip("needs Linux and a C compiler")
    words = ["publish", "bake", "compact", "--every", "9", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "jobs.kills", *words], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    figures = json.loads((tmp_path / "kills.json").read_text())
    for each in figures["scenes"].values():
        assert each["calls"] > 20
        assert each["kills"] == -(-each["calls"] // 9)
    assert figures["kills"] == sum(each["kills"] for each in figures["scenes"].values())
    assert "| publish |" in (tmp_path / "kills.md").read_text()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"files": {"a": "1"}}, ["a is left over"]),
        ({"rows": {"msus": ["{}"]}}, ["msus is left over"]),
        ({"problems": ["merges: doubled"]}, ["merges: doubled"]),
        ({"left": [".lego-ray-probe-1"]}, []),
    ],
)
def test_each_difference_is_named(changed: dict[str, object], said: list[str]) -> None:
    assert differences(NOTHING, {**NOTHING, **changed}) == said
    if "problems" not in changed:
        named = [line.replace("left over", "missing") for line in said]
        assert differences({**NOTHING, **changed}, NOTHING) == named


def test_bytes_and_rows_that_differ_are_named() -> None:
    quiet = {**NOTHING, "files": {"a": "1"}, "rows": {"msus": ["x"]}}
    found = {**NOTHING, "files": {"a": "2"}, "rows": {"msus": ["x", "x"]}}
    assert differences(quiet, found) == ["a differs", "msus differs"]


def test_bakes_of_copies_of_a_base_model_are_the_same_and_all_else_counts(tmp_path: Path) -> None:
    def found(**told: object) -> dict[str, str]:
        base = {"uri": "base", "sha256": {"model.safetensors": "1"}, **told}
        (tmp_path / "lego_ray_bake.json").write_text(json.dumps({"base": base}))
        files: dict[str, str] = snapshot(tmp_path)["files"]
        return files

    first = found(marks={"model.safetensors": "8:1:7 11"})
    assert found(marks={"model.safetensors": "9:1:7 12"}) == first
    assert found(sha256={"model.safetensors": "2"}) != first
