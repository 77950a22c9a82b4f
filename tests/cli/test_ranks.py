"""`--rank auto`, `--rank-budget` and `plan --errors` on the command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import lego_ray
from lego_ray.cli import main as command_line
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.main import cli
from lego_ray.planning.options import DEFAULT_ERROR
from lego_ray.planning.plan import Plan
from lego_ray.tasks.values import TaskResult
from tests.zoo import files_of, write_adapter, write_zoo


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


def answer(*words: object) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    root = write_zoo(tmp_path / "zoo", 3)
    write_adapter(root / "strong", seed=9, alpha_pattern={"layers.0.q_proj": 40})
    return root


def test_plan_reads_headers_alone_unless_errors_are_asked_for(zoo: Path) -> None:
    opened = answer("plan", zoo, "--rank", "auto")
    assert (opened["rank"], opened["errors"], opened["nearest_error"]) == (None, None, None)
    assert opened["recipe"]["rank_error"] == DEFAULT_ERROR
    made = answer("plan", zoo, "--rank", "auto", "--errors")
    assert made["rank"] in [each["rank"] for each in made["errors"]]
    assert made["nearest_error"] <= DEFAULT_ERROR
    [before] = [e for e in made["errors"] if e["rank"] == 1]
    assert before["error"] > DEFAULT_ERROR
    assert set(before) == {"rank", "error", "worst_site", "worst_error"}


def test_people_see_a_table_of_errors(zoo: Path) -> None:
    told = run("plan", zoo, "--rank-budget", 2, "--errors").stdout
    lines = told.splitlines()
    [head] = [at for at, line in enumerate(lines) if line.split()[:2] == ["rank", "error"]]
    assert [lines[head + 1 + i].split()[0] for i in range(3)] == ["1", "2", "4"]
    assert "rank 1-" in told
    assert "the nearest adapter has error" in told
    opened = run("plan", zoo, "--rank-budget", 2).stdout
    assert "rank budget 2 (chosen by measuring; --errors does it now)" in opened
    assert "to measure and again to merge" in opened


def test_a_plan_with_errors_names_the_merge(zoo: Path, tmp_path: Path) -> None:
    asked = ("--rank-budget", 2, "--output", tmp_path / "m")
    planned = answer("plan", zoo, *asked, "--errors")
    record = answer("merge", zoo, *asked, "--runner", "inline", "--catalog", tmp_path / "catalog")
    assert record["merge_id"] == planned["plan"]
    assert record["ranks"] == planned["ranks"] == planned["recipe"]["ranks"]
    assert (record["rank"], record["nearest_error"]) == (planned["rank"], planned["nearest_error"])
    again = run("merge", zoo, *asked, "--runner", "inline").stdout
    ranks = record["ranks"].values()
    assert f"already published: 4 adapters merged at rank {min(ranks)}-{max(ranks)} (" in again
    shown = answer("catalog", "show", "m", "--catalog", tmp_path / "catalog")
    assert shown["merge"]["rank"] == record["rank"]
    assert {site["site"]: site["rank"] for site in shown["sites"]} == record["ranks"]
    assert "measured" in run("status", tmp_path / "m").stdout


def test_a_merge_told_to_stop_after_measuring_says_what_is_kept(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(plan: Plan, result: TaskResult | None) -> None:
        if result is not None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as left, resumable(str(tmp_path / "m")):
        lego_ray.merge(
            zoo, rank="auto", output=tmp_path / "m", runner="inline", name="m", progress=stop
        )
    assert left.value.code == 130
    assert "0 of 4 sites, and what was measured of 4, are kept in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--rank: no rank is given"),
        (
            ("--rank", "auto", "--rank-budget", 4),
            "--rank-budget: it takes the place of --rank auto",
        ),
        (("--rank", 4, "--rank-budget", 4), "--rank-budget: it takes the place of --rank 4"),
        (("--rank", 4, "--rank-error", 0.1), "--rank-error: it goes with --rank auto alone"),
        (("--rank", "auto", "--rank-error", 1), "--rank-error: 1.0 is not a number above 0"),
        (("--rank-budget", 0), "--rank-budget: 0 is not a whole number of at least 1"),
        (
            ("--rank", "auto", "--method", "ties"),
            "--rank auto: the ties method does not take every",
        ),
        (("--rank-budget", 4, "--method", "concat"), "--rank-budget: the concat method does not"),
        (("--rank", "some"), "'some' is not a whole number or auto"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_bad_input(
    words: tuple[object, ...],
    says: str,
    zoo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["merge", str(zoo), "--output", str(tmp_path / "m"), "--runner", "inline"]
    monkeypatch.setattr("sys.argv", ["lego-ray", *where, *map(str, words)])
    with pytest.raises(SystemExit) as left:
        command_line.main()
    assert left.value.code == 2
    assert says in capsys.readouterr().err
    assert files_of(tmp_path / "m") == {}
