"""What a run on Ray counts, and what a scraper of the cluster sees of it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.runners.ray.metrics import RunMetrics, counting_retries
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.solve import solve_task
from lego_ray.tasks.values import SolveTask, TaskResult
from tests.zoo import Site, write_zoo

pytestmark = pytest.mark.ray


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    sites = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(4))
    return write_zoo(tmp_path / "zoo", 3, sites=sites)


def test_results_are_counted_under_their_plan_and_name(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.util.metrics

    counted: dict[str, float] = defaultdict(float)
    tags: list[dict[str, str]] = []

    class Fake:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            assert tag_keys == ("plan", "merge")
            self.name = name

        def set_default_tags(self, given: dict[str, str]) -> None:
            tags.append(given)

        def inc(self, value: float) -> None:
            assert value > 0  # Ray raises otherwise
            counted[self.name] += value

    monkeypatch.setattr(ray.util.metrics, "Counter", Fake)
    whole = lego_ray.plan(zoo, rank=4, n_init=2, name="mine")
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    plan = lego_ray.plan(zoo, rank=4, n_init=2, name="mine", memory_budget=budget)
    results = [solve_task(task) for task in tasks_of(plan)]
    assert len(results) == 4
    metrics = RunMetrics(plan)
    for result in results:
        metrics.record(result)
    inertias: list[Any] = [s.inertia for r in results for s in r.sites]
    assert dict(counted) == {
        "lego_ray_adapters_read": 3,
        "lego_ray_bytes_read": sum(r.bytes_read for r in results),
        "lego_ray_sites_done": 4,
        "lego_ray_inertia": sum(inertias),
    }
    assert tags == [{"plan": plan.digest[:12], "merge": "mine"}] * 5


@pytest.mark.usefixtures("local_ray")
def test_a_task_started_again_says_so(zoo: Path, tmp_path: Path) -> None:
    import ray

    killed = tmp_path / "killed"

    def dies_once(task: SolveTask) -> TaskResult:
        if not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return solve_task(task)

    [task] = tasks_of(lego_ray.plan(zoo, rank=4, n_init=2))
    remote = ray.remote(counting_retries(dies_once)).options(max_retries=3)
    assert ray.get(remote.remote(task)).retries == 1
    remote = ray.remote(counting_retries(solve_task))
    assert ray.get(remote.remote(task)).retries == 0


def test_outside_of_ray_nothing_was_started_again(zoo: Path) -> None:
    [task] = tasks_of(lego_ray.plan(zoo, rank=4, n_init=2))
    assert counting_retries(solve_task)(task).retries == 0


# Merges on a Ray with a metrics endpoint, and prints what that endpoint has of the merge.
SCRIPT = """
import json, sys, time, urllib.request
import lego_ray.runners.ray.session, ray, lego_ray
port, zoo, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         object_store_memory=100 * 2**20, _metrics_export_port=port)
record = lego_ray.merge(zoo, rank=4, output=output, n_init=2, name="mine", workers=1)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
deadline = time.monotonic() + 60
lines = []
def scrape():
    try:
        text = opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        return
    lines[:] = [line for line in text.splitlines() if line.startswith("ray_lego_ray_")]
def exported():
    # Each is exported by itself, some of them an interval after the others.
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
    names = ("adapters_read_total", "bytes_read_total", "inertia_total")
    return values.get("ray_lego_ray_sites_done_total") == 4 and all(
        f"ray_lego_ray_{name}" in values for name in names)
while not exported() and time.monotonic() < deadline:
    time.sleep(0.2)
    scrape()
# They stay, for a scraper that comes some intervals later.
time.sleep(4)
scrape()
print(json.dumps({"record": record, "lines": lines}))
"""


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("aiohttp", "prometheus_client", "opencensus"))),
    reason="Ray exports metrics with ray[default] only",
)
def test_a_scraper_of_the_cluster_sees_them(zoo: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(port), str(zoo), str(tmp_path / "m")],
        env={**os.environ, "RAY_metrics_report_interval_ms": "500"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    values = {}
    for line in said["lines"]:
        name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
        assert f'plan="{said["record"]["merge_id"][:12]}"' in labels
        assert 'merge="mine"' in labels
        values[name.removeprefix("ray_lego_ray_")] = float(value)
    assert values["adapters_read_total"] == 3
    assert values["sites_done_total"] == 4
    assert 0 < values["bytes_read_total"] < said["record"]["bytes_read"]
    assert values["inertia_total"] > 0
