"""How far a merge is, at every stage of it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import ObjectNotFound
from lego_ray.planning.plan import Plan
from lego_ray.tasks.values import TaskResult
from tests.zoo import WEIGHTS, Site, files_of, write_zoo

# So wide that a task takes one site whether there are five adapters or four.
SITES = tuple(Site(f"layers.{i}.q_proj", (2000,), 10) for i in range(4))
KEYS = {
    *("state", "output", "merge_id", "name", "method", "rank", "adapters", "sites", "sites_done"),
    *("quarantined", "tasks_saved", "bytes_read", "inertia", "started_at", "saved_at"),
    *("catalog", "kept_in", "sites_measured", "damaged"),
}


class Stop(Exception):
    pass


def ask(run: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lego_ray", "status", str(run), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def ask_here(run: Path) -> str:
    found = CliRunner().invoke(cli, ["status", str(run)])
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", sites=SITES)


def merge(zoo: Path, output: Path, stop_after: int = -1, **method: Any) -> list[TaskResult]:
    """Merges, up to some number of results."""
    method = method or {"n_init": 2}
    whole = lego_ray.plan(zoo, rank=4, **method)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    results: list[TaskResult] = []

    def follow(plan: Plan, result: TaskResult | None) -> None:
        results.extend([result] if result else [])
        if len(results) == stop_after:
            raise Stop

    options: dict[str, Any] = {"rank": 4, "runner": "inline", "name": "m", **method}
    lego_ray.merge(zoo, output=output, progress=follow, memory_budget=budget, **options)
    return results


def test_an_unfinished_run_tells_what_is_done(zoo: Path, tmp_path: Path) -> None:
    results = merge(zoo, tmp_path / "whole")
    with pytest.raises(Stop):
        merge(zoo, tmp_path / "m", stop_after=3)
    before = files_of(tmp_path)
    found = lego_ray.status(tmp_path / "m")
    assert set(found) == KEYS
    assert found["state"] == "unfinished"
    assert (found["name"], found["method"], found["rank"]) == ("m", "lego", 4)
    assert (found["adapters"], found["sites"], found["sites_done"]) == (5, 4, 3)
    assert (found["tasks_saved"], found["sites_measured"]) == (3, None)
    assert found["bytes_read"] == sum(r.bytes_read for r in results[:3])
    inertias: list[Any] = [s.inertia for r in results[:3] for s in r.sites]
    assert found["inertia"] == pytest.approx(sum(inertias))
    assert datetime.fromisoformat(found["started_at"]) <= datetime.fromisoformat(found["saved_at"])
    assert found["kept_in"] == str(tmp_path / "m" / ".lego-ray")
    told = ask(tmp_path / "m")
    assert told.returncode == 0, told.stderr
    assert "unfinished: m, 5 adapters at rank 4 by lego; 3 of 4 sites done" in told.stdout
    assert f"inertia {found['inertia']:.6g} so far" in told.stdout
    assert json.loads(ask(tmp_path / "m", "--json").stdout) == found
    assert files_of(tmp_path) == before


def test_a_folder_of_merges_shows_each(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "all" / "whole")
    with pytest.raises(Stop):
        merge(zoo, tmp_path / "all" / "below" / "m", stop_after=3)
    before = files_of(tmp_path)
    found = lego_ray.library_status(tmp_path / "all")
    below, whole = found.merges
    assert below == lego_ray.status(tmp_path / "all" / "below" / "m")
    assert (below.sites_done, below.sites) == (3, 4)
    assert whole == lego_ray.status(tmp_path / "all" / "whole")
    assert (found.state, found.former, found.holder) == ("unfinished", 0, None)
    assert json.loads(ask(tmp_path / "all", "--json").stdout) == found
    assert "unfinished: 1 of 2 merges published\n" in ask_here(tmp_path / "all")
    assert files_of(tmp_path) == before


def test_nothing_of_k_means_is_told_of_a_method_that_does_not_cluster(
    zoo: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        merge(zoo, tmp_path / "m", stop_after=2, method="svd")
    found = lego_ray.status(tmp_path / "m")
    assert (found["method"], found["sites_done"], found["inertia"]) == ("svd", 2, None)
    told = ask_here(tmp_path / "m")
    assert "2 of 4 sites done" in told
    assert "2 tasks saved" in told
    assert "inertia" not in told


def test_a_published_merge_is_published_even_beside_leftovers(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m")
    folder = tmp_path / "m" / ".lego-ray"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    found = lego_ray.status(str(tmp_path / "m"))
    assert set(found) == KEYS
    assert (found["state"], found["sites_done"], found["sites"]) == ("published", 4, 4)
    assert found["merge_id"] == lego_ray.plan(zoo, rank=4, n_init=2, name="m").digest
    told = ask(tmp_path / "m")
    assert told.stdout.startswith("published: m, 5 adapters at rank 4 by lego; 4 of 4 sites done")


@pytest.mark.parametrize(("stop", "sites_done", "adapters"), [(3, 2, 5), (4, 3, 5), (6, 2, 4)])
def test_adapters_found_to_be_bad_are_named(
    stop: int, sites_done: int, adapters: int, zoo: Path, tmp_path: Path
) -> None:
    tensors = load_file(zoo / "a2" / WEIGHTS)
    tensors["base_model.model.layers.2.q_proj.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, zoo / "a2" / WEIGHTS, {"format": "pt"})
    with pytest.raises(Stop):
        merge(zoo, tmp_path / "m", stop_after=stop)
    found = lego_ray.status(tmp_path / "m")
    assert (found["sites_done"], found["adapters"]) == (sites_done, adapters)
    [bad] = found["quarantined"]
    assert bad["adapter"] == str(zoo / "a2")
    assert bad["reason"].startswith("NonFiniteWeights: ")
    assert "left out" in ask(tmp_path / "m").stdout


def test_a_run_that_has_saved_nothing_yet_has_done_nothing(zoo: Path, tmp_path: Path) -> None:
    found = []

    def look(plan: Plan, result: TaskResult | None) -> None:
        found.append(lego_ray.status(tmp_path / "m"))

    lego_ray.merge(zoo, rank=4, output=tmp_path / "m", runner="inline", n_init=2, progress=look)
    assert (found[0]["sites_done"], found[0]["sites"]) == (0, 4)
    assert found[0]["saved_at"] is None
    assert found[-1]["sites_done"] == 4


def test_a_damaged_file_counts_for_nothing(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        merge(zoo, tmp_path / "m", stop_after=3)
    first, second, _ = sorted((tmp_path / "m" / ".lego-ray").glob("*/*"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-5])
    assert lego_ray.status(tmp_path / "m")["sites_done"] == 1


def test_what_is_no_run_is_bad_input(zoo: Path, tmp_path: Path) -> None:
    for place in (zoo, tmp_path / "nothing"):
        with pytest.raises(ObjectNotFound, match="neither a merge nor an unfinished run"):
            lego_ray.status(place)
    told = ask(tmp_path / "nothing", "--json")
    assert told.returncode == 2
    assert set(json.loads(told.stdout)) == {"error"}
    [line] = told.stderr.splitlines()
    assert line.startswith("ObjectNotFound: ")


def test_it_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    ask_in_process = (
        "import sys, lego_ray\n"
        "try: lego_ray.status(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    command = [sys.executable, "-c", ask_in_process, str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["ObjectNotFound", "[]"]
