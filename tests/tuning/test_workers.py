"""Trials beside each other on Ray: the same as one after another, and a lost worker is a failure."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import InvalidOption
from lego_ray.tuning.record import TuneRecord
from tests.tuning.target import VARIABLE
from tests.zoo import write_zoo

HIDDEN = {"a0": 1.6, "a1": 0.4, "a2": 0.8}
BODY = """
import json, sys
from tests.tuning.target import score
print(json.dumps(score(sys.argv[1], sys.argv[2])))
"""


def scorer(zoo: Path, body: str = BODY) -> str:
    """A command, since the workers of a Ray that is up have no variables of a test."""
    told = json.dumps({"zoo": str(zoo), "weights": HIDDEN})
    words = ["env", f"{VARIABLE}={told}", f"PYTHONPATH={Path.cwd()}", sys.executable, "-c", body]
    return f"{shlex.join(words)} {{adapter}} {{split}}"


def tune(zoo: Path, output: Path, **options: Any) -> TuneRecord:
    given = {"rank": 12, "score": scorer(zoo), "trials": 11, **options}
    return lego_ray.tune(zoo, output=output / "merged", **given)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_workers_try_what_one_process_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    twin, one, two = (tmp_path / name for name in ("twin", "one", "two"))
    serial = tune(zoo, twin)
    lone = tune(zoo, one, runner="ray", workers=1)
    both = tune(zoo, two, runner="ray", workers=2)
    for key in ("study_id", "best", "options", "report", "differences"):
        assert lone[key] == serial[key]
    # What is drawn knows of fewer trials where two are at work.
    kept = [
        [json.loads(file.read_text()) for file in sorted((root / "merged-study/trials").iterdir())]
        for root in (twin, two)
    ]
    for mine, theirs in zip(*(trials[:9] for trials in kept), strict=True):
        assert (mine["parameters"], mine["value"]) == (theirs["parameters"], theirs["value"])
    assert (both.trials, both.failed) == (11, 0)
    again = tune(zoo, tmp_path / "again", runner="ray", workers=2)
    assert again["best"] == both["best"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_is_lost_is_a_failed_trial(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    body = (
        "import os, signal, sys\n"
        f"first = {str(tmp_path / 'first')!r}\n"
        "if not os.path.exists(first):\n"
        "    open(first, 'w').close()\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "print('{\"score\": 1}')"
    )
    record = tune(zoo, tmp_path, score=scorer(zoo, body), runner="ray", workers=1, trials=3)
    assert [each["trial"] for each in record.failures] == [0]
    assert "its worker was lost" in record.failures[0]["reason"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"runner": "inline", "workers": 2}, "one after another"),
        ({"runner": "slurm"}, "not one of"),
        ({"workers": 0}, "of at least 1"),
    ],
)
def test_workers_that_cannot_be(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    with pytest.raises(InvalidOption, match=problem):
        tune(zoo, tmp_path, **options)
