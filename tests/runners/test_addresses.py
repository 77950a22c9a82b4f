"""Where Ray is: a running cluster is joined, one that is not there is bad input.

In processes of their own: a process can be in one Ray only, and this one may be.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lego_ray
from tests.surroundings import without_ray
from tests.zoo import files_of, weights_of, write_zoo

ROOT = Path(__file__).parents[2]
# To start a Ray and its workers takes 5 s, and several times that on a machine with other work.
SECONDS = 150

pytestmark = pytest.mark.ray


def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environ = without_ray() | extra
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_auto_joins_a_running_cluster_and_leaves_it_running(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    done = run("-m", "tests.runners.join_cluster", str(zoo), str(tmp_path / "m"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"status": "published", "left": True, "cpus_after": 2.0}
    lego_ray.merge(zoo, rank=4, output=tmp_path / "inline", n_init=2, runner="inline")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "inline")


@pytest.mark.parametrize(
    ("address", "environ"),
    [
        ("127.0.0.1:1", {}),
        ("127.0.0.1:99999", {}),
        ("nonsense", {}),
        ("ray://127.0.0.1:1", {}),
        ("auto", {"RAY_ADDRESS": "127.0.0.1:1"}),
    ],
    ids=str,
)
def test_an_address_without_a_ray_is_bad_input(
    address: str, environ: dict[str, str], tmp_path: Path
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 1)
    cli = ["-c", "from lego_ray.cli.main import main; main()", "merge", str(zoo), "--rank", "4"]
    places = ["--output", str(tmp_path / "m"), "--catalog", str(tmp_path / "catalog")]
    done = run(*cli, *places, "--address", address, "--json", **environ)
    assert done.returncode == 2, done.stderr[-3000:]
    assert json.loads(done.stdout)["error"]["exit_status"] == 2
    assert done.stderr.splitlines()[-1].startswith(f"BadInput: --address {address}: ")
    assert files_of(tmp_path / "m") == {}
    assert files_of(tmp_path / "catalog") == {}
