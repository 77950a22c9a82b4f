"""The command line as scripts use it: one JSON object, exit codes, one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from lego_ray.cli import options
from lego_ray.methods.lego import Basis, Distance
from lego_ray.methods.registry import METHODS
from lego_ray.numerics.reweight import ParameterNorm
from lego_ray.planning.recipe import DTYPES
from tests.zoo import write_zoo


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lego_ray", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_choices_written_out_are_those_of_their_rooms() -> None:
    assert tuple(METHODS) == options.METHODS
    assert DTYPES == options.DTYPES
    assert get_args(Distance) == options.DISTANCES
    assert get_args(Basis) == options.BASES
    assert get_args(ParameterNorm) == options.PARAMETER_NORMS


def test_merge_prints_one_json_object_with_its_keys_and_plan_has_its_id(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    flags = ("--rank", 4, "--output", tmp_path / "out", "--runner", "inline", "--json")
    planned = json.loads(run("plan", zoo, *flags).stdout)
    done = run("merge", zoo, *flags, "--catalog", tmp_path / "catalog")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {
        "merge_id",
        "output",
        "catalog",
        "adapters",
        "refused",
        "sites",
        "rank",
        "seconds",
        "bytes_read",
    } <= set(record)
    assert record["merge_id"] == planned["plan"]
    assert len(record["adapters"]) == 3
    query = "SELECT merge_id, rank FROM merges"
    rows = json.loads(
        run("catalog", "sql", query, "--catalog", tmp_path / "catalog", "--json").stdout
    )["rows"]
    assert rows == [{"merge_id": record["merge_id"], "rank": 4}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rank", 0), "--rank"),
        (("--rank", 4, "--runner", "foo"), "foo"),
        (("--rank", 4, "--rnk", 1), "--rank"),
        (("--rank", 4, "--memory-budget", "lots"), "--memory-budget"),
        (("--rank", 4, "--dtype", "F8"), "F8"),
    ],
)
def test_bad_input_is_one_error_exit_two_and_nothing_written(
    tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    done = run("merge", zoo, "--output", tmp_path / "out", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_no_adapters_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("merge", tmp_path / "empty", "--rank", 4, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("NoAdaptersFound: ")
    assert not (tmp_path / "out").exists()
