"""The section of a page on the search that the merge is the best of."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.report import report
from lego_ray.errors import InvalidOption, StorageError
from lego_ray.output.study_files import trial_key
from lego_ray.reporting.front import undominated
from lego_ray.reporting.importance import importances
from lego_ray.reporting.search import search
from lego_ray.reporting.study import StudyFacts, TrialFacts
from lego_ray.reporting.write import page
from tests.browser import Browser
from tests.reporting.page_facts import facts
from tests.reporting.test_page import EVIL, Tags
from tests.reporting.test_report import OVERLAPS, WIDE
from tests.tuning.target import VARIABLE
from tests.zoo import write_zoo


def trial(number: int, value: float | None, reason: str = "", **told: Any) -> TrialFacts:
    parameters = {"preset": "paper", "rank": 8, "scale": 1.0, "spectrum": None, "weights": {}}
    tasks = told.pop("tasks", {})
    return TrialFacts(number, {**parameters, **told}, value, tasks, reason)


def study(count: int = 20, tasks: tuple[str, ...] = ("french", "medical")) -> StudyFacts:
    """Trials whose score is set by the norm alone; every seventh failed."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(count):
        if number % 7 == 6:
            trials.append(trial(number, None, "ScoringFailed: <b>no</b> score"))
            continue
        scale = float(rng.uniform(0.5, 2))
        scores = {name: float(-abs(scale - 1 - 0.2 * i)) for i, name in enumerate(tasks)}
        value = float(np.mean(list(scores.values()))) if tasks else -abs(scale - 1)
        preset = str(rng.choice(["paper", "iso"]))
        trials.append(trial(number, value, preset=preset, scale=scale, tasks=scores))
    by_task = {name: {"difference": 0.02, "error": 0.01} for name in tasks}
    scored = {"value": -0.1, "score": -0.1, "tasks": dict.fromkeys(tasks, -0.1)}
    return StudyFacts(
        "/zoo/best-study",
        trials,
        "mean",
        scores={"best": scored, "adaptive": scored, "paper": {"reason": "ScoringFailed: it ended"}},
        differences={"adaptive": {"difference": 0.021, "error": 0.0042, "tasks": by_task}},
    )


def test_a_merge_that_no_search_made_has_no_such_section() -> None:
    assert search(facts(3)) is None
    assert 'id="search"' not in page(facts(3)).decode()


def test_each_trial_is_a_dot_and_failed_ones_are_marked() -> None:
    found = search(replace(facts(3), study=study()))
    assert found is not None
    titles = [title for _, _, title in found.progress.marks]
    assert len(titles) == 20
    assert [title for title in titles if "failed" in title] == [
        f"trial {n} failed: ScoringFailed: <b>no</b> score" for n in (6, 13)
    ]
    heights = {title: y for _, y, title in found.progress.marks}
    assert {y for title, y in heights.items() if "failed" in title} == {max(heights.values())}
    best = max(study().done, key=lambda each: each.value or 0.0)
    assert min(heights, key=lambda title: heights[title]).startswith(f"trial {best.number}: ")
    labels = [*found.progress.svg.split("<text")]
    assert any("best so far" in label for label in labels)
    assert [row[1] for row in found.rows] == [each.value for each in study().trials]


def test_what_sets_the_score_matters_most() -> None:
    shares = importances(study(40).done)
    assert shares is not None
    assert list(shares) == ["norm", "preset"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["norm"] > 0.8
    assert importances(study(40).done) == shares, "it is not drawn by lot"


def test_weights_of_adapters_are_parameters_by_short_names() -> None:
    rng = np.random.default_rng(1)
    trials = []
    for number in range(60):
        one, two = rng.uniform(0.25, 4, 2)
        weights = {"s3://zoo/a/one": float(one), "s3://zoo/a/two": float(two)}
        trials.append(trial(number, -abs(float(one) - 1), weights=weights, spectrum=0.3))
    shares = importances(trials)
    assert shares is not None
    assert list(shares) == ["weight of one", "weight of two"]


@pytest.mark.parametrize(
    ("trials", "why"),
    [
        (study(7).trials, "is estimated from 8 scored trials on"),
        ([trial(n, float(n)) for n in range(9)], "Trials differ in no parameter"),
        ([trial(n, 1.0, scale=float(n + 1)) for n in range(9)], "have one score"),
    ],
)
def test_why_there_is_no_importance_is_said(trials: list[TrialFacts], why: str) -> None:
    text = page(replace(facts(3), study=replace(study(), trials=trials))).decode()
    assert why in text
    assert 'id="importance-figure"' not in text


def test_without_optuna_importance_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    for module in ("importance", "search"):
        monkeypatch.setattr(
            f"lego_ray.reporting.{module}.find_spec",
            lambda name: None if name == "optuna" else real(name),
        )
    text = page(replace(facts(3), study=study())).decode()
    assert "Optuna, which is not installed: pip install &#39;lego-ray[tune]&#39;" in text
    assert 'id="importance-figure"' not in text
    assert 'id="search-figure"' in text


def test_the_front_is_what_no_other_trial_is_above() -> None:
    points = [(1, 5), (2, 4), (2, 3), (3, 3), (0, 0), (3, 3), (1, 1)]
    trials = [
        trial(n, float(a + b), tasks={"a": float(a), "b": float(b)})
        for n, (a, b) in enumerate(points)
    ]
    assert [each.number for each in undominated(trials, ("a", "b"))] == [0, 1, 3, 5]
    assert [each.number for each in undominated(trials, ("a",))] == [3, 5]


@pytest.mark.parametrize(("tasks", "drawn"), [(2, 18), (3, 3 * 18), (30, 24 * 18)])
def test_two_tasks_or_more_have_a_front(tasks: int, drawn: int) -> None:
    names = tuple(f"task-{n}" for n in range(tasks))
    found = search(replace(facts(3), study=study(tasks=names)))
    assert found is not None
    assert found.front is not None
    assert found.front.of == 18
    assert len(found.front.drawing.marks) == drawn
    by_value = [each.value or 0.0 for each in found.front.trials]
    assert by_value == sorted(by_value, reverse=True)
    text = page(replace(facts(3), study=study(tasks=names))).decode()
    assert ("The first 24 of 30 tasks are drawn" in text) == (tasks == 30)


def test_one_task_has_no_front() -> None:
    found = search(replace(facts(3), study=study(tasks=("only",))))
    assert found is not None
    assert found.front is None


def test_the_held_out_comparison_has_its_error() -> None:
    text = page(replace(facts(3), study=study())).decode()
    table = text.split('<table id="held-out">')[1].split("</table>")[0]
    assert '<th scope="row">adaptive</th>' in table
    assert "0.021" in table
    assert "0.0042" in table
    assert "ScoringFailed: it ended" in table
    assert "owe nothing to luck" in text
    shown = search(replace(facts(3), study=study()))
    assert shown is not None
    assert shown.held_out is not None
    assert shown.held_out.drawing is not None
    assert [title for *_, title in shown.held_out.drawing.marks] == [
        "above adaptive by 0.021 ± 0.0042"
    ]
    same = page(replace(facts(3), study=replace(study(), is_held_out=False))).decode()
    assert "nothing was held out" in same
    none = page(replace(facts(3), study=replace(study(), scores={}, differences={}))).decode()
    assert "The study holds no scores on rows that were held out." in none


def test_names_in_a_study_mean_nothing_as_markup() -> None:
    plain = Tags(page(replace(facts(3), study=study(tasks=("a", "b", "c")))))
    hostile = Tags(page(replace(facts(3), study=study(tasks=EVIL[:3]))))
    assert not {"script", "img"} & set(hostile.tags)
    for tag in ("table", "tr", "td", "svg", "title", "p", "b"):
        assert hostile.tags.count(tag) == plain.tags.count(tag)
    assert len(hostile.ids) == len(set(hostile.ids))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge that a real search made, of ten trials."""
    root = tmp_path_factory.mktemp("search")
    write_zoo(root / "zoo", 2)
    told = {"zoo": str(root / "zoo"), "weights": {"a0": 1.6, "a1": 0.4}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, json.dumps(told))
        options: dict[str, Any] = {
            "rank": 4,
            "score": "tests.tuning.target:score",
            "study": root / "best-study",
            "space": ["preset=paper,adaptive"],
        }
        lego_ray.tune(root / "zoo", output=root / "best", trials=8, **options)
        lego_ray.tune(root / "zoo", output=root / "more", trials=9, **options)
    return root


def written(root: Path, name: str = "best", **given: Any) -> tuple[dict[str, Any], str]:
    record = lego_ray.report(root / name, output=root / "page.html", **given)
    return record, (root / "page.html").read_text()


def test_the_study_beside_a_merge_is_shown(tuned: Path) -> None:
    record, text = written(tuned, sources=())
    assert record["sections"]["search"]
    assert "lego-ray tune tried 8 merges" in text
    section = text.split('<section id="search"')[1].split("</section>")[0]
    kept = [
        json.loads((tuned / "best-study" / trial_key(number)).read_text()) for number in range(8)
    ]
    assert section.count("<tr>") > 8
    for each in kept:
        assert f"trial {each['trial']}: " in section
    report = json.loads((tuned / "best-study" / "report-000008.json").read_text())
    assert set(report["differences"]) == {"adaptive", "paper"}
    for name in ("best", "adaptive", "paper"):
        assert f'<th scope="row">{name}</th>' in section
    for figure in ("search", "held-out", "importance", "front"):
        assert f'<figure id="{figure}-figure">' in section
    assert written(tuned, sources=())[1] == text


def test_a_merge_is_shown_with_the_trials_that_it_is_the_best_of(tuned: Path) -> None:
    _, text = written(tuned, "more", sources=(), study=tuned / "best-study")
    assert "lego-ray tune tried 9 merges" in text
    record, text = written(tuned, "more", sources=())
    assert not record["sections"]["search"]
    assert 'id="search"' not in text


def test_a_study_of_other_merges_is_refused(tuned: Path, tmp_path: Path) -> None:
    lego_ray.merge(tuned / "zoo", output=tmp_path / "other", rank=2)
    with pytest.raises(InvalidOption, match="made other merges"):
        lego_ray.report(
            tmp_path / "other", output=tmp_path / "p.html", study=tuned / "best-study", sources=()
        )
    with pytest.raises(InvalidOption, match="is not a study of lego-ray tune"):
        lego_ray.report(tuned / "best", output=tmp_path / "p.html", study=tuned / "zoo", sources=())


def test_a_damaged_study_is_a_warning_unless_it_was_asked_for(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "best", tmp_path / "best")
    shutil.copytree(tuned / "best-study", tmp_path / "best-study")
    (tmp_path / "best-study" / trial_key(3)).write_text('{"trial": 3}')
    record, text = written(tmp_path, sources=())
    assert record["warnings"][0].startswith("The study was not read: ")
    assert "lego-ray tune tried" not in text
    with pytest.raises(StorageError, match="this file of the study is damaged"):
        written(tmp_path, sources=(), study=tmp_path / "best-study")


def test_a_study_of_an_earlier_release_is_shown_with_its_last_trials(
    tuned: Path, tmp_path: Path
) -> None:
    shutil.copytree(tuned / "best", tmp_path / "best")
    shutil.copytree(tuned / "best-study", tmp_path / "best-study")
    shutil.rmtree(tmp_path / "best-study" / "published")
    assert "lego-ray tune tried 9 merges" in written(tmp_path, sources=())[1]


def test_the_command_takes_a_study(tuned: Path, tmp_path: Path) -> None:
    words = [str(tuned / "more"), "--output", str(tmp_path / "p.html"), "--no-sources", "--json"]
    done = CliRunner().invoke(report, [*words, "--study", str(tuned / "best-study")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["sections"]["search"]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("tasks", [2, 30])
def test_figures_fit_and_their_labels_do_not_overlap(
    browser: Browser, tmp_path: Path, width: int, tasks: int
) -> None:
    names = tuple(f"a task with a rather long name, number {n}" for n in range(tasks))
    file = tmp_path / "page.html"
    file.write_bytes(page(replace(facts(3), study=study(64, tasks=names))))
    browser.open(file, width=width)
    assert browser.run(WIDE) <= 0
    shown = browser.run(
        "return [...document.querySelectorAll('#search .plot')].filter(e => e.checkVisibility())"
        ".map(e => [e.className, e.scrollWidth - e.clientWidth])"
    )
    assert {each[0] for each in shown} == {"plot phone" if width < 640 else "plot desk"}
    assert len(shown) == 4
    assert all(each[1] <= 0 for each in shown)
    assert browser.run(OVERLAPS) == []
    assert browser.complaints() == []
