"""A cluster that starts without workers gets as many as a run has tasks for, and loses them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from tests.runners import growing
from tests.runners.grow_cluster import ADDRESS
from tests.runners.spread import SITES, budget_for, write_wide_zoo
from tests.zoo import Site, weights_of, write_zoo

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
    script = ("-m", "lego_ray", *words, "--address", ADDRESS, "--json")
    return growing.on_growing(workers, *script, seconds=SECONDS)


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


def test_spread_sites_that_no_node_type_can_hold_name_their_placement_group(
    tmp_path: Path,
) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo", sites=SITES[:1])
    more = flags(memory_budget=budget_for(zoo, 3), n_init=3, gpus=1, wait=10000)
    said = on_growing(1, "merge", str(zoo), "--output", str(tmp_path / "m"), *more)
    assert said["rc"] == 1
    error = json.loads(said["out"])["error"]
    assert error["type"] == "ClusterTooSmall"
    assert "no node type that can hold it" in error["message"]
    assert "its placement group is pending, " in error["message"]
    assert "GPU and " in error["message"].partition("it asks for 3 x (")[2]
    assert (said["most"], said["left"]) == (0, 0)
