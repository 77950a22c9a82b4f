"""`lego-ray tune` as people and programs meet it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.zoo import write_zoo

# The score of a merge is its number of bytes, so that any will do.
SIZE = (
    "import json, os, sys; "
    "size = os.path.getsize(sys.argv[1] + '/adapter_model.safetensors'); "
    "print(json.dumps({'score': size, 'tasks': {'size': size, sys.argv[2]: 1}}))"
)
SLOW = "import time; time.sleep(600)"
ENOUGH = 240


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_zoo(tmp_path / "zoo", 2)
    return tmp_path


def words(place: Path, body: str = SIZE, *more: str) -> list[str]:
    score = f"{shlex.join([sys.executable, '-c', body])} {{adapter}} {{split}}"
    given = ["tune", "zoo", "--rank", "4", "--output", "best", "--score", score, *more]
    return [sys.executable, "-m", "lego_ray", *given]


def run(place: Path, *more: str, body: str = SIZE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(place, body, *more),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )


def test_the_record_is_one_json_object(place: Path) -> None:
    done = run(place, "--trials", "2", "--json", "--space", "preset=paper,iso")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["trials"] == 2
    assert record["merge"]["output"] == record["output"] == str(place / "best")
    assert record["study"] == str(place / "best-study")
    assert set(record["best"]["tasks"]) == {"size", "choose"}
    assert set(record["report"]["best"]["tasks"]) == {"size", "report"}


def test_people_see_the_best_and_what_it_is_held_against(place: Path) -> None:
    done = run(place, "--trials", "2", "--catalog", "catalog", "--objective", "min")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "published: trial 0 of 2 trials is the best, 1; 0 failed"
    starts = [line.split()[0] for line in lines[1:]]
    assert starts[:4] == ["held-out", "best", "adaptive", "paper"]
    assert starts[-4:] == ["output", "study", "catalog", "merge"]
    assert (place / "best" / "adapter_config.json").exists()


def test_a_scorer_that_never_scores_is_quoted_with_status_1(place: Path) -> None:
    done = run(place, "--trials", "1", body="import sys; sys.exit('no such model')")
    assert done.returncode == 1
    assert "no such model" in done.stderr
    assert done.stdout == ""


def test_bad_input_has_status_2(place: Path) -> None:
    done = run(place, "--space", "size=3")
    assert done.returncode == 2
    assert "not KEY=VALUES" in done.stderr


def test_a_signal_ends_it_with_its_scorer_and_says_how_to_go_on(place: Path) -> None:
    process = subprocess.Popen(
        words(place, f"import os; open('scorer', 'w').write(str(os.getpid())); {SLOW}"),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + ENOUGH
    file = place / "scorer"
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=ENOUGH)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.strip().endswith("finished trials are kept; run the same command to continue")
    assert not Path(f"/proc/{file.read_text()}").exists()
    assert not (place / "best").exists()
