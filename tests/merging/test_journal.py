"""What happens in a run is logged, each event with the plan it is about."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import OutputExists
from lego_ray.planning.plan import Plan
from lego_ray.tasks.values import TaskResult
from tests.merging.test_bad_adapters import spoil
from tests.zoo import WEIGHTS, Site, write_adapter, write_zoo

# So wide that a task takes one site whether there are five adapters or four.
SITES = tuple(Site(f"layers.{i}.q_proj", (2000,), 10) for i in range(3))


class Stop(Exception):
    """Ends a run where a test wants it to end."""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", sites=SITES)


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="lego_ray")


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    whole = lego_ray.plan(zoo, rank=4, n_init=2)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    given: dict[str, Any] = {"rank": 4, "runner": "inline", "n_init": 2, "name": "m"}
    return lego_ray.merge(zoo, output=output, memory_budget=budget, **{**given, **options})


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, Any]]]:
    """Event, plan and fields of each record so far, which are then forgotten."""
    found = [(r.event, r.plan, r.fields) for r in caplog.records if r.name == "lego_ray"]  # type: ignore[attr-defined]
    caplog.clear()
    return found


def test_a_run_is_planned_done_task_by_task_and_published(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = merge(zoo, tmp_path / "m")
    found = events(caplog)
    assert [e for e, _, _ in found] == ["run planned", *["task done"] * 3, "published"]
    assert {plan for _, plan, _ in found} == {record["merge_id"]}
    planned, task, last = found[0][2], found[1][2], found[-1][2]
    assert (planned["name"], planned["adapters"], planned["sites"]) == ("m", 5, 3)
    assert (task["name"], task["sites"], task["retries"]) == ("layers.0", 1, 0)
    assert min(task["bytes"], task["requests"], task["seconds"], task["inertia"]) > 0
    assert (last["output"], last["resumed_sites"]) == (str(tmp_path / "m"), 0)
    merge(zoo, tmp_path / "m")
    assert [e for e, _, _ in events(caplog)] == ["already published"]


def test_a_task_of_a_method_that_does_not_cluster_has_no_inertia(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lego_ray.merge(zoo, rank=4, output=tmp_path / "m", method="svd", runner="inline")
    tasks = [fields for event, _, fields in events(caplog) if event == "task done"]
    assert tasks
    assert not any("inertia" in task for task in tasks)


def test_a_run_that_fails_and_goes_on_says_both(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = 2

    def stop(plan: Plan, result: TaskResult | None) -> None:
        nonlocal left
        left -= result is not None
        if not left:
            raise Stop("here")

    with pytest.raises(Stop):
        merge(zoo, tmp_path / "m", progress=stop)
    found = events(caplog)
    assert [e for e, _, _ in found] == ["run planned", "task done", "task done", "failed"]
    assert found[-1][2] == {"error": "Stop", "reason": "here"}
    with pytest.raises(OutputExists):
        merge(zoo, tmp_path / "m", seed=1)
    [(event, plan, fields)] = events(caplog)
    assert (event, fields["error"]) == ("failed", "OutputExists")
    assert plan != found[0][1]
    first = min((tmp_path / "m" / ".lego-ray").glob("*/*.checkpoint"))
    first.write_bytes(b"")
    merge(zoo, tmp_path / "m")
    found = events(caplog)
    assert [e for e, _, _ in found] == [
        *("run planned", "checkpoint unreadable", "run resumed", "task done", "task done"),
        "published",
    ]
    assert found[1][2]["file"] == str(first)
    assert (found[2][2]["sites_done"], found[2][2]["sites"]) == (1, 3)


def test_a_bad_adapter_is_named_with_both_plans(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = zoo / "a2" / WEIGHTS
    tensors = load_file(file)
    tensors["base_model.model.layers.2.q_proj.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    record = merge(zoo, tmp_path / "m")
    found = events(caplog)
    [bad] = [each for each in found if each[0] == "adapter quarantined"]
    assert bad[2]["adapter"] == str(zoo / "a2")
    assert "NaN" in bad[2]["reason"]
    plans = [plan for event, plan, _ in found if event == "run planned"]
    assert plans == [bad[1], record["merge_id"]]


def test_an_update_is_logged_as_a_merge_is(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    merge(zoo, tmp_path / "m", updatable=True)
    bad = write_adapter(tmp_path / "more" / "bad", seed=8, sites=SITES)
    spoil(bad, float("nan"))
    good = write_adapter(tmp_path / "more" / "good", seed=9, sites=SITES)
    caplog.clear()

    def update() -> lego_ray.UpdateRecord:
        at = tmp_path / "m"
        return lego_ray.update(at, add=tmp_path / "more", output=tmp_path / "v2", runner="inline")

    made = update()
    assert made.added == (str(good),)
    found = events(caplog)
    assert [e for e, _, _ in found] == [
        *("run planned", "update worked out", "adapter quarantined"),
        *("run planned", "update worked out", "published"),
    ]
    asked, quarantined, planned, last = found[0], found[2], found[3], found[-1]
    assert (asked[1], planned[1]) == (quarantined[1], made.merge_id)
    assert quarantined[2]["adapter"] == str(bad)
    assert (asked[2]["adapters"], planned[2]["adapters"], planned[2]["refused"]) == (7, 6, 1)
    assert (last[2]["output"], last[2]["drift"]) == (made.output, made.drift)
    assert update().status == "already published"
    found = events(caplog)
    assert [(e, plan) for e, plan, _ in found][-1] == ("already published", made.merge_id)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lego_ray", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_line_shows_it_as_json_as_text_or_not_at_all(zoo: Path, tmp_path: Path) -> None:
    flags = ("--rank", 4, "--n-init", 2, "--runner", "inline", "--json")
    told = {
        kind: run("merge", zoo, "--output", tmp_path / kind, "--name", "m", *flags, "--log", kind)
        for kind in ("json", "text", "none")
    }
    merge_id = json.loads(told["json"].stdout)["merge_id"]
    lines = [json.loads(line) for line in told["json"].stderr.splitlines()]
    assert [line["event"] for line in lines] == ["run planned", "task done", "published"]
    for line in lines:
        assert (line["plan"], line["level"]) == (merge_id, "info")
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert lines[1]["sites"] == 3
    text = told["text"].stderr.splitlines()
    assert len(text) == 3
    assert all(merge_id[:12] in line for line in text)
    assert told["none"].stderr == ""
    assert len({done.stdout for done in told.values()}) == 3
    refused = run("merge", zoo, "--output", tmp_path / "json", *flags, "--seed", 1, "--log", "json")
    line, error = refused.stderr.splitlines()
    assert json.loads(line)["event"] == "failed"
    assert error.startswith("OutputExists: ")
