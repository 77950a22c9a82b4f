"""A node that goes away in the middle of a run changes no bit of what comes out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from tests.runners.spread import budget_for, shards_of, write_wide_zoo
from tests.surroundings import without_ray
from tests.zoo import Site, weights_of, write_zoo

ROOT = Path(__file__).parents[2]
# Ray counts a node as lost after five health checks that fail, and starts its actors elsewhere.
SECONDS = 280

pytestmark = [pytest.mark.ray, pytest.mark.timeout(SECONDS + 20)]


def merge_and_lose(
    zoo: Path, output: Path, budget: int, title: str, n_init: int, after: int = 0
) -> None:
    words = [sys.executable, "-m", "tests.runners.lose_node", str(zoo), str(output)]
    words += [str(budget), title, str(n_init), str(after)]
    if shutil.which("unshare") and os.geteuid() == 0:
        # A head listens on every interface; in a network of its own nobody else can reach it.
        inside = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
        words = ["unshare", "--net", "sh", "-c", inside, "sh", *words]
    environ = without_ray() | {"RAY_health_check_period_ms": "1000"}
    done = subprocess.run(
        words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"status": "published", "lost": 1}


def test_tasks_of_a_lost_node_are_done_by_another(tmp_path: Path) -> None:
    sites = tuple(Site(f"layers.{i}.q_proj", (256,), 256) for i in range(12))
    zoo = write_zoo(tmp_path / "zoo", 12, sites=sites, rank=32)
    whole = lego_ray.plan(zoo, rank=4)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    n_init = 40
    merge_and_lose(zoo, tmp_path / "m", budget, "ray::solve", n_init)
    lego_ray.merge(zoo, rank=4, output=tmp_path / "whole", n_init=n_init, tol=0.0, runner="inline")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")


# With a site done, the team that did it has nothing left to do and must not keep its node.
@pytest.mark.parametrize("after", [0, 1])
def test_shards_of_a_lost_node_are_read_again_by_another(tmp_path: Path, after: int) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    many: dict[str, Any] = {"n_init": 60, "tol": 0.0}
    budget = budget_for(zoo, 3, **many)
    plan = lego_ray.plan(zoo, rank=4, memory_budget=budget, **many)
    assert max(shards_of(plan).values()) >= 3
    merge_and_lose(zoo, tmp_path / "m", budget, "ray::ShardActor.call", 60, after)
    lego_ray.merge(zoo, rank=4, output=tmp_path / "whole", runner="inline", **many)
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")
