"""Scoring commands: what they print is read, and what they start is ended."""

from __future__ import annotations

import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lego_ray.errors import InvalidOption, ScoringFailed
from lego_ray.scoring import Score, score_with_command

# Seconds within which a small command ends on a busy machine.
ENOUGH = 60.0


def command(tmp_path: Path, body: str, *more: str) -> str:
    """A scoring command whose script has a body; `adapter` is its first argument."""
    script = tmp_path / "score.py"
    script.write_text(f"import json, os, sys, time\nadapter = sys.argv[1]\n{body}\n")
    return shlex.join([sys.executable, str(script), "{adapter}", *more])


def test_the_score_is_the_last_json_line_that_has_one(tmp_path: Path) -> None:
    body = (
        'print("loading", file=sys.stderr)\n'
        'print(json.dumps({"score": 1}))\n'
        'print(json.dumps({"score": 0.5, "tasks": {"a": 0.25, "b": 0.75}}))\n'
        'print(json.dumps({"loss": 3})); print("[1]"); print("{not json")'
    )
    score = score_with_command(command(tmp_path, body), str(tmp_path), timeout_s=ENOUGH)
    assert score == Score(0.5, {"a": 0.25, "b": 0.75})
    assert score.as_json() == {"score": 0.5, "tasks": {"a": 0.25, "b": 0.75}}


def test_rows_are_kept(tmp_path: Path) -> None:
    body = 'print(json.dumps({"score": 1, "tasks": {"a": 1}, "rows": {"a": [0, 2]}}))'
    score = score_with_command(command(tmp_path, body), str(tmp_path), timeout_s=ENOUGH)
    assert score.rows == {"a": (0.0, 2.0)}
    assert score.as_json()["rows"] == {"a": [0.0, 2.0]}


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'say "x"', "$(touch pwned)", "; touch pwned", "-x"]
)
def test_no_directory_is_taken_for_anything_else(tmp_path: Path, name: str) -> None:
    adapter = tmp_path / name
    adapter.mkdir()
    body = "print(json.dumps({'score': float(os.path.isdir(adapter)), 'tasks': {adapter: 0}}))"
    score = score_with_command(command(tmp_path, body), str(adapter), timeout_s=ENOUGH)
    assert score == Score(1.0, {str(adapter): 0.0})
    assert not Path("pwned").exists()


def test_adapter_and_split_are_words_and_variables(tmp_path: Path) -> None:
    names = '"LEGO_RAY_ADAPTER", "LEGO_RAY_SPLIT", "MINE"'
    body = (
        f"said = [*sys.argv[1:], *map(os.environ.get, [{names}])]\n"
        "print(json.dumps({'score': len(said), 'tasks': {'/'.join(said): 0}}))"
    )
    line = command(tmp_path, body, "--split={split}")
    given = {"LEGO_RAY_SPLIT": "choose", "MINE": "1"}
    score = score_with_command(line, "here", timeout_s=ENOUGH, environment=given)
    assert list(score.tasks) == ["here/--split=choose/here/choose/1"]
    score = score_with_command(line, "here", timeout_s=ENOUGH, environment={"MINE": "2"})
    assert list(score.tasks) == ["here/--split=all/here/all/2"]


def test_a_shell_reads_the_variable(tmp_path: Path) -> None:
    line = """sh -c 'printf "{\\"score\\": %s}" "${#LEGO_RAY_ADAPTER}"'"""
    assert score_with_command(line, "four", timeout_s=ENOUGH) == Score(4.0, {})


def test_an_exit_status_is_a_failed_score_that_quotes_the_last_lines(tmp_path: Path) -> None:
    line = command(tmp_path, 'print("a\\nb", file=sys.stderr); sys.exit("no such model")')
    with pytest.raises(ScoringFailed, match="exit status 1: a / b / no such model") as failed:
        score_with_command(line, str(tmp_path), timeout_s=ENOUGH)
    assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)


def test_a_signal_is_named(tmp_path: Path) -> None:
    line = command(tmp_path, "os.kill(os.getpid(), 9)")
    with pytest.raises(ScoringFailed, match="signal SIGKILL"):
        score_with_command(line, str(tmp_path), timeout_s=ENOUGH)


@pytest.mark.parametrize(
    ("printed", "problem"),
    [
        ("", "printed no line with a score"),
        ("0.5", "printed no line with a score"),
        ('{"loss": 1}', "printed no line with a score"),
        ('{"score": NaN}', "not a finite number"),
        ('{"score": Infinity}', "not a finite number"),
        ('{"score": true}', "True, not a number"),
        ('{"score": "1"}', "'1', not a number"),
        ('{"score": null}', "None, not a number"),
        ('{"score": 1, "tasks": [1]}', "tasks of its result is not a mapping"),
        ('{"score": 1, "tasks": {"a": NaN}}', "score of task a is nan"),
        ('{"score": 1, "rows": {"a": 3}}', "a row of task a is not a list"),
    ],
)
def test_what_is_not_a_score_is_refused_with_the_form(
    tmp_path: Path, printed: str, problem: str
) -> None:
    with pytest.raises(ScoringFailed, match=problem) as failed:
        score_with_command(
            command(tmp_path, f"print({printed!r})"), str(tmp_path), timeout_s=ENOUGH
        )
    assert '{"score": NUMBER' in failed.value.hint


def test_the_time_limit_ends_what_the_scorer_started(tmp_path: Path) -> None:
    body = (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "print('begun', file=sys.stderr, flush=True); time.sleep(600)"
    )
    line = command(tmp_path, body)
    began = time.monotonic()
    with pytest.raises(ScoringFailed, match="longer than 8 seconds and was ended: begun"):
        score_with_command(line, str(tmp_path), timeout_s=8)
    assert time.monotonic() - began < ENOUGH
    assert ended((tmp_path / "child").read_text())


def test_what_a_scorer_leaves_in_the_background_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    body = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "print(json.dumps({'score': 1}))"
    )
    began = time.monotonic()
    assert score_with_command(command(tmp_path, body), "a", timeout_s=ENOUGH).value == 1
    assert time.monotonic() - began < ENOUGH
    assert ended((tmp_path / "child").read_text())


def ended(process: str) -> bool:
    """Whether a process ended, or is about to be reaped by whoever adopted it."""
    end = time.monotonic() + ENOUGH
    while time.monotonic() < end:
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{process}/stat")
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_long_log_before_the_score_is_not_held_in_memory(tmp_path: Path) -> None:
    body = "for _ in range(40): print('x' * 100_000)\nprint(json.dumps({'score': 2}))"
    assert score_with_command(command(tmp_path, body), "a", timeout_s=ENOUGH).value == 2


def test_a_program_that_does_not_exist_is_a_failed_score() -> None:
    with pytest.raises(ScoringFailed, match="cannot be started"):
        score_with_command("/nowhere/score {adapter}", "a", timeout_s=ENOUGH)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "it is empty"),
        ("python 'score.py {adapter}", "cannot be split"),
        ("python score.py", "does not say where the adapter goes"),
        ("python score.py {adapter} | tail -1", "needs a shell"),
        ("cd x; python score.py {adapter}", "needs a shell"),
        ("FOO=1 python score.py {adapter}", "only a shell takes for a variable"),
    ],
)
def test_a_command_that_cannot_mean_what_it_says_is_bad_input(line: str, problem: str) -> None:
    with pytest.raises(InvalidOption, match=problem):
        score_with_command(line, "a", timeout_s=ENOUGH)


def test_what_is_killed_leaves_no_scorer_and_no_folder(tmp_path: Path) -> None:
    """SIGKILL, as for a worker of a cluster: the killed process cannot clean up."""
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "weights").touch()
    kill = "import os, signal; os.kill(os.getppid(), signal.SIGKILL); "
    wait = f"open({str(tmp_path / 'scorer')!r}, 'w').write(str(os.getpid())); {kill}"
    words = [sys.executable, "-c", f"import os; {wait}import time; time.sleep(600)", "{adapter}"]
    body = (
        "import sys\n"
        "from lego_ray.scoring.command import score_with_command\n"
        "from lego_ray.scoring.warden import removed_with_us\n"
        "with removed_with_us(sys.argv[1]):\n"
        "    score_with_command(sys.argv[2], sys.argv[1], timeout_s=500)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", body, str(folder), shlex.join(words)], timeout=ENOUGH, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    end = time.monotonic() + ENOUGH
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "scorer").read_text()), 0)
