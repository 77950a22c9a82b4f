"""A search from sources to the published merge, on tiny adapters and a score whose best is known."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import BadInput, InvalidOption, OutputExists, ScoringFailed, SourceChanged
from lego_ray.tuning import tune
from lego_ray.tuning.record import TuneRecord
from lego_ray.tuning.trial import PREFIX
from tests.merging.changing import replaced, replaced_unseen
from tests.tuning.target import CALLS, KILL_AT, VARIABLE
from tests.zoo import write_adapter, write_zoo

HIDDEN = {"a0": 1.6, "a1": 0.4, "a2": 0.8}
SCORER = "tests.tuning.target:score"
FAILING = "tests.tuning.target:failing"
# Relative distance to the target that a search of 48 trials must get below; presets are above 0.5.
NEAR = 0.2


@dataclass(frozen=True)
class Place:
    """Folders of a test."""

    root: Path

    @property
    def zoo(self) -> Path:
        return self.root / "zoo"

    def tune(self, name: str = "merged", **options: Any) -> TuneRecord:
        given: dict[str, Any] = {"rank": 12, "score": SCORER, "trials": 6, **options}
        return lego_ray.tune(self.zoo, output=self.root / name, **given)

    def trials(self, name: str = "merged-study") -> list[dict[str, Any]]:
        files = sorted((self.root / name / "trials").iterdir())
        return [json.loads(file.read_text()) for file in files]

    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    write_zoo(tmp_path / "zoo", 3)
    told = {"zoo": str(tmp_path / "zoo"), "weights": HIDDEN}
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return Place(tmp_path)


def test_a_hidden_target_is_found_far_better_than_by_the_presets(place: Place) -> None:
    record = place.tune(trials=48)
    report = {name: each["value"] for name, each in record.report.items()}
    assert report["best"] > -NEAR > -0.5 > max(report["adaptive"], report["paper"])
    weights = {Path(uri).name: w for uri, w in record.best["parameters"]["weights"].items()}
    assert weights["a0"] > weights["a2"] > weights["a1"]
    for name in ("adaptive", "paper"):
        found = record.differences[name]
        assert found["difference"] == pytest.approx(report["best"] - report[name])
        assert 0 < found["error"] < found["difference"]
        assert set(found["tasks"]) == {"q_proj", "v_proj"}
    assert (record.trials, record.failed, record.warnings) == (48, 0, ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda zoo: write_adapter(zoo / "new", seed=9), "new: it is new since"),
        (lambda zoo: replaced(zoo / "a0"), "a0: it was written again since"),
        (lambda zoo: replaced_unseen(zoo / "a0"), "a0: it was written again since"),
        (lambda zoo: shutil.rmtree(zoo / "a0"), "a0: it is gone since"),
    ],
)
def test_what_was_not_scored_is_not_published(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    says: str,
) -> None:
    reported = tune._reported

    def changing(*args: Any) -> Any:
        found = reported(*args)
        change(place.zoo)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(tune, "_reported", changing)
        with pytest.raises(SourceChanged, match=re.escape(says)):
            place.tune(catalog=place.root / "catalog")
    assert not (place.root / "merged" / "lego_ray_manifest.json").exists()


def test_the_winner_is_the_merge_of_its_options(place: Place) -> None:
    record = place.tune(trials=20, name="merged", dtype="F32", catalog=place.root / "catalog")
    assert record.merge["status"] == "published"
    again = lego_ray.merge(
        place.zoo, output=place.root / "other" / "merged", dtype="F32", rank=12, **record.options
    )
    assert again["merge_id"] == record.merge["merge_id"]
    for key in ("adapter_model.safetensors", "adapter_config.json", "lego_ray_manifest.json"):
        mine, theirs = (place.root / "merged" / key, place.root / "other" / "merged" / key)
        assert mine.read_bytes() == theirs.read_bytes()
    rows = lego_ray.catalog.list_merges(place.root / "catalog").to_pylist()
    assert [row["merge_id"] for row in rows] == [record.merge["merge_id"]]


def test_each_trial_is_kept_and_its_folder_removed(place: Place) -> None:
    record = place.tune()
    trials = place.trials()
    assert [trial["trial"] for trial in trials] == list(range(6))
    best = max(trials, key=lambda trial: trial["value"])
    assert record.best["trial"] == best["trial"]
    assert record.best["tasks"] == best["tasks"]
    splits = [call.split()[0] for call in place.calls()]
    assert splits == ["choose"] * 6 + ["report"] * len(splits[6:])
    folders = [Path(call.split()[1]).parent for call in place.calls()]
    assert all(folder.name.startswith(PREFIX) and not folder.exists() for folder in folders)


def test_the_adapters_are_read_once(place: Place) -> None:
    one, many = place.tune("one", trials=1), place.tune("many", trials=12)
    assert one.bytes_read == many.bytes_read > 0


def test_the_catalog_has_each_trial_once(place: Place) -> None:
    catalog, study = place.root / "catalog", place.root / "study"
    first = place.tune("first", catalog=catalog, study=study, score=FAILING)
    place.tune("first", catalog=catalog, study=study, score=FAILING)
    second = place.tune("second", catalog=catalog, study=study, score=FAILING, trials=8)
    rows = lego_ray.catalog.sql(catalog, "SELECT * FROM trials ORDER BY trial").to_pylist()
    assert [row["trial"] for row in rows] == list(range(8))
    assert {row["study_id"] for row in rows} == {first["study_id"]} == {second["study_id"]}
    for row, kept in zip(rows, place.trials("study"), strict=True):
        assert row["status"] == kept["status"]
        assert row["value"] == kept["value"]
        assert json.loads(row["parameters"]) == kept["parameters"]
        assert dict(row["tasks"] or ()) == kept["tasks"]
        assert (row["reason"] is None) == (row["status"] == "ok")
    best = [row for row in rows if row["merge_id"]]
    assert best[0]["trial"] == first["best"]["trial"]
    assert best[0]["merge_id"] == first["merge"]["merge_id"]


def test_the_same_study_is_not_tried_again(place: Place) -> None:
    first = place.tune()
    calls = place.calls()
    second = place.tune()
    assert place.calls() == calls
    assert second.merge["status"] == "already published"
    for key in ("study_id", "best", "options", "report", "differences", "warnings"):
        assert second[key] == first[key]


def test_more_trials_continue_a_study(place: Place) -> None:
    place.tune("first", study=place.root / "study")
    before = place.trials("study")
    place.tune("second", study=place.root / "study", trials=18)
    after = place.trials("study")
    assert after[:6] == before
    assert len(after) == 18
    place.tune("whole", trials=18)
    chosen = [trial["parameters"] for trial in place.trials("whole-study")]
    assert [trial["parameters"] for trial in after] == chosen


@pytest.mark.parametrize("at", [2, 18])
def test_a_search_that_is_killed_goes_on_as_the_same_study(
    place: Place, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    body = (
        "import sys, lego_ray; lego_ray.tune(sys.argv[1], output=sys.argv[2], rank=12, "
        f"score={SCORER!r}, trials=18)"
    )
    words = [sys.executable, "-c", body, str(place.zoo), str(place.root / "killed")]
    temporary = place.root / "temporary"
    temporary.mkdir()
    environment = {**os.environ, KILL_AT: str(at), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["TMPDIR"] = str(temporary)
    ended = subprocess.run(words, env=environment, capture_output=True, timeout=280, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (place.root / "killed" / "adapter_model.safetensors").exists()
    end = time.monotonic() + 60
    while (left := list(temporary.iterdir())) and time.monotonic() < end:
        time.sleep(0.02)
    assert not left, "the folder of the trial that was killed"
    kept = len(place.trials("killed-study"))
    assert kept == at - 1
    calls = len(place.calls())
    went_on = place.tune("killed", trials=18)
    assert len(place.calls()) - calls <= 18 - kept + 3
    whole = place.tune("whole", trials=18)
    assert went_on["study_id"] == whole["study_id"]
    for key in ("best", "options", "report", "differences"):
        assert went_on[key] == whole[key]
    parts = [
        [(t["trial"], t["parameters"], t["value"]) for t in place.trials(f"{name}-study")]
        for name in ("killed", "whole")
    ]
    assert parts[0] == parts[1]
    weights = [
        (place.root / name / "adapter_model.safetensors").read_bytes()
        for name in ("killed", "whole")
    ]
    assert weights[0] == weights[1]


def test_trials_that_fail_are_failed_trials(place: Place) -> None:
    record = place.tune(score="tests.tuning.target:failing")
    assert record.failed == 3
    assert [each["trial"] for each in record.failures] == [0, 2, 4]
    assert "this one is not scored" in record.failures[0]["reason"]
    assert record.best["trial"] in (1, 3, 5)
    assert "3 of 6 trials failed" in record.warnings[0]


def test_a_merge_that_cannot_be_made_is_a_failed_trial(place: Place) -> None:
    # concat gives rank 12 of these adapters and no other.
    words: dict[str, Any] = {"method": "concat", "space": ["rank=12,5", "weights=1"], "rank": None}
    record = place.tune(trials=12, **words)
    ranks = {t["parameters"]["rank"]: t["status"] for t in place.trials()}
    assert ranks == {12: "ok", 5: "failed"}
    assert all(each["reason"].startswith("InvalidOption: ") for each in record.failures)


def test_when_all_fail_the_scorer_is_quoted_and_the_same_command_tries_again(place: Place) -> None:
    with pytest.raises(ScoringFailed, match=r"first 5 trials failed.*no adapter is good enough"):
        place.tune(score="tests.tuning.target:never", trials=48)
    assert not (place.root / "merged").exists()
    (place.root / "calls").write_text("")
    record = place.tune(score="tests.tuning.target:never", trials=6)
    assert (record.failed, record.best["value"]) == (0, 1.0)


def test_a_scorer_that_ignores_the_split_is_reported(place: Place) -> None:
    (place.root / "calls").write_text("")
    record = place.tune(score="tests.tuning.target:never")
    assert "not held out" in record.warnings[0]


def test_a_command_scores_as_a_function_does(place: Place) -> None:
    body = (
        "import json, sys; from tests.tuning.target import score; "
        "print(json.dumps(score(sys.argv[1], sys.argv[2])))"
    )
    line = shlex.join(["env", f"PYTHONPATH={Path.cwd()}", sys.executable, "-c", body])
    by_command = place.tune("command", score=f"{line} {{adapter}} {{split}}", trials=3)
    by_function = place.tune("function", trials=3)
    for key in ("best", "report", "differences"):
        assert by_command[key] == by_function[key]


def test_an_output_that_is_taken_is_found_before_any_trial(place: Place) -> None:
    lego_ray.merge(place.zoo, output=place.root / "merged", rank=4)
    with pytest.raises(OutputExists, match="it holds a merge"):
        place.tune()
    assert not (place.root / "calls").exists()


def test_another_study_is_not_continued(place: Place) -> None:
    place.tune("first", study=place.root / "study", trials=1)
    with pytest.raises(InvalidOption, match="another study: its objective, seed differ"):
        place.tune("second", study=place.root / "study", seed=1, objective="min")
    write_adapter(place.zoo / "a3", seed=9)
    with pytest.raises(InvalidOption, match="another study: its adapters differ"):
        place.tune("second", study=place.root / "study", trials=1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"score": None}, "nothing says how a merge is scored"),
        ({"score": "python score.py"}, "does not say where the adapter goes"),
        ({"score": "no_such_module:score"}, "No module named"),
        ({"score_texts": "texts.jsonl"}, "--score is also given"),
        ({"trials": 0}, "of at least 1"),
        ({"objective": "max"}, "is not one of"),
        ({"objective": "mean", "task_weights": {"a": 1.0}}, "has no weights"),
        ({"space": ["size=1"]}, "not KEY=VALUES"),
        ({"wait": 3.0}, "a search does not have it"),
        ({"distance": "cosine"}, "which method is best is searched"),
        ({"exclude": ["a*"]}, "is left out by --exclude"),
        ({"time_limit_per_trial": 0.0}, "above 0"),
    ],
)
def test_bad_input_is_found_before_any_trial(
    place: Place, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadInput, match=problem):
        place.tune(**options)
    assert not (place.root / "calls").exists()
    assert not (place.root / "merged-study").exists()
