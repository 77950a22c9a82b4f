"""A command loads no library that it does not work with: of those that take long to load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lego_ray
from tests.zoo import write_zoo

SLOW = {
    "boto3",
    "deltalake",
    "duckdb",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "numpy",
    "pyarrow",
    "ray",
    "torch",
}
# Runs a command and prints what it loaded, whatever it prints itself.
RUN = f"""
import contextlib, io, json, sys
from lego_ray.cli.main import main
sys.argv[0] = "lego-ray"
status = 0
with contextlib.redirect_stdout(io.StringIO()):
    try:
        main()
    except SystemExit as ended:
        status = ended.code
print(json.dumps([status or 0, sorted({sorted(SLOW)!r} & sys.modules.keys())]))
"""
TABLES = ["deltalake", "numpy", "pyarrow"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo, and a merge of it in a catalog."""
    root = tmp_path_factory.mktemp("loads")
    zoo = write_zoo(root / "zoo")
    lego_ray.merge(zoo, rank=4, output=root / "merged", catalog=root / "catalog", runner="inline")
    lego_ray.merge(zoo, rank=2, output=root / "second", runner="inline")
    return root


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        ("--help", []),
        ("merge --help", []),
        ("tune --help", []),
        ("methods", []),
        ("methods lego", []),
        ("inspect zoo", []),
        ("plan zoo --rank 4", []),
        ("init zoo", []),
        ("status merged", []),
        ("verify merged", []),
        ("compare --help", []),
        ("compare merged second", ["numpy", "torch"]),
        ("scan zoo --catalog catalog", TABLES),
        ("catalog list --catalog catalog", TABLES),
        ("catalog check --catalog catalog", sorted([*TABLES, "duckdb"])),
        (
            "catalog site --catalog catalog --output site",
            sorted([*TABLES, "duckdb", "jinja2"]),
        ),
        ("merge zoo --rank 4 --output other", ["jinja2", "numpy", "pyarrow", "torch"]),
    ],
)
def test_it_loads_what_it_works_with(place: Path, words: str, loaded: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", RUN, *words.split()],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == [0, loaded], run.stderr
