"""A cluster that starts without workers gets as many as a run has tasks for, and loses them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from tests.runners.grow_cluster import ADDRESS
from tests.runners.spread import SITES, budget_for, write_wide_zoo
from tests.surroundings import without_ray
from tests.zoo import Site, weights_of, write_zoo

ROOT = Path(__file__).parents[2]
SECONDS = 230
# Work enough for a second worker to come while the first is busy.
LONG: dict[str, Any] = {"n_init": 60, "tol": 0.0}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS + 20),
]


def on_growing(workers: int, *words: str) -> dict[str, Any]:
    """What `grow_cluster` prints of `lego-ray` with these words."""
    inside = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
    # The head listens at a fixed place, in a network of its own; its processes end with their table.
    alone = ["unshare", "--net", "--pid", "--fork", "--mount-proc"]
    alone += [] if os.geteuid() == 0 else ["--map-root-user"]
    alone += ["sh", "-c", inside, "sh"]
    # Short, for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="grow-") as folder:
        command = [sys.executable, "-m", "tests.runners.grow_cluster", folder, str(workers)]
        command += ["-m", "lego_ray", *words, "--address", ADDRESS, "--json"]
        environ = without_ray() | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*alone, *command],
            cwd=ROOT,
            env=environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def flags(**options: Any) -> list[str]:
    given = {"rank": 4, **LONG, **options}
    return [word for k, v in given.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def test_one_worker_becomes_several_and_none(tmp_path: Path) -> None:
    sites = tuple(Site(f"layers.{i}.q_proj", (256,), 256) for i in range(12))
    zoo = write_zoo(tmp_path / "zoo", 12, sites=sites, rank=32)
    whole = lego_ray.plan(zoo, rank=4)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    said = on_growing(
        4, "merge", str(zoo), "--output", str(tmp_path / "m"), *flags(memory_budget=budget)
    )
    assert said["rc"] == 0, said["err"][-3000:]
    assert (said["most"], said["left"]) == (4, 0)
    lego_ray.merge(zoo, rank=4, output=tmp_path / "whole", runner="inline", **LONG)
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")


def test_a_bound_on_the_workers_holds_and_spread_sites_alone_wait_for_theirs(
    tmp_path: Path,
) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo", sites=SITES[:1])
    budget = budget_for(zoo, 3)
    more = flags(memory_budget=budget, n_init=3, max_workers=2)
    said = on_growing(4, "merge", str(zoo), "--output", str(tmp_path / "m"), *more)
    assert said["rc"] == 0, said["err"][-3000:]
    assert (0 < said["most"] <= 2, said["left"]) == (True, 0)
    lego_ray.merge(zoo, rank=4, output=tmp_path / "whole", runner="inline", n_init=3, tol=0.0)
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")


def test_a_task_that_no_node_type_can_hold_is_refused_at_once(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    words = ["merge", str(zoo), "--output", str(tmp_path / "m"), *flags(gpus=1, wait=10000)]
    said = on_growing(1, *words)
    assert said["rc"] == 1
    error = json.loads(said["out"])["error"]
    assert error["type"] == "ClusterTooSmall"
    assert "no node type that can hold it (1 GPU needed, 0 GPUs there)" in error["message"] or (
        "no node type that can hold it (1 CPU needed, 0 CPUs there)" in error["message"]
    )
    assert (said["most"], said["left"]) == (0, 0)
