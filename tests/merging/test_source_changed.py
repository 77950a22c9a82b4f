"""A source that changes between scan and read: never merged as what it was, nor half of each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import OutputExists, RunFailed, SourceChanged
from lego_ray.runners.inline import InlineRunner
from lego_ray.runners.ray.runner import RayRunner
from lego_ray.sources.headers import scan_sources
from tests.merging.changing import (
    Change,
    ChangingRunner,
    alpha_changed,
    gone,
    longer_header,
    refused_now,
    replaced,
    replaced_unseen,
    rewritten,
    rights_changed,
    touched,
    truncated,
    weights_replaced,
)
from tests.runners.spread import budget_for, write_wide_zoo
from tests.zoo import CONFIG, WEIGHTS, mixed_zoo, weights_of, write_zoo

CHANGES = [
    replaced,
    replaced_unseen,
    weights_replaced,
    rewritten,
    longer_header,
    alpha_changed,
    touched,
]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return mixed_zoo(tmp_path / "zoo")


def merge(zoo: Any, output: Path, **options: Any) -> dict[str, Any]:
    given = {"rank": 4, "n_init": 2, "name": "m", "runner": "inline", **options}
    return lego_ray.merge(zoo, output=output, **given)


def bytes_of(output: Path) -> dict[str, bytes]:
    """Every file below an output."""
    files = (path for path in sorted(output.rglob("*")) if path.is_file())
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def small(zoo: Path) -> int:
    """A memory budget under which each site is a task."""
    whole = lego_ray.plan(zoo, rank=4, n_init=2)
    return max(site.peak_bytes for task in whole.tasks for site in task.sites)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_is_published_is_a_merge_of_the_files_that_are_there_now(
    change: Change, after: int, zoo: Path, tmp_path: Path
) -> None:
    runner = ChangingRunner(lambda: change(zoo / "plain"), after=after)
    record = merge(zoo, tmp_path / "m", runner=runner, memory_budget=small(zoo))
    assert record["status"] == "published"
    fresh = merge(zoo, tmp_path / "fresh", memory_budget=small(zoo))
    assert record["merge_id"] == fresh["merge_id"]
    assert bytes_of(tmp_path / "m") == bytes_of(tmp_path / "fresh")
    [warning] = [w for w in record["warnings"] if w not in fresh["warnings"]]
    assert str(zoo / "plain") in warning
    assert record["bytes_read"] > fresh["bytes_read"]
    assert record["resumed_sites"] == 0 or change is touched


@pytest.mark.parametrize("change", [c for c in CHANGES if c is not touched])
def test_a_second_change_fails_and_publishes_nothing(
    change: Change, zoo: Path, tmp_path: Path
) -> None:
    again = [lambda: change(zoo / "plain"), lambda: touched(zoo / "higher")]
    runner = ChangingRunner(*again, after=1)
    with pytest.raises(SourceChanged) as caught:
        merge(zoo, tmp_path / "m", runner=runner, memory_budget=small(zoo), catalog=tmp_path / "c")
    assert caught.value.exit_code == 1
    assert caught.value.adapter == str(zoo / "higher")
    assert caught.value.where.startswith(str(zoo / "higher"))
    assert str(zoo / "plain") in caught.value.problem
    assert not list((tmp_path / "m").rglob("*.json"))
    merge(zoo, tmp_path / "m")  # nothing is left in its way
    merge(zoo, tmp_path / "fresh")
    assert bytes_of(tmp_path / "m") == bytes_of(tmp_path / "fresh")


def test_files_that_are_touched_again_and_again_are_the_same_content(
    zoo: Path, tmp_path: Path
) -> None:
    again = [lambda: touched(zoo / "plain"), lambda: touched(zoo / "plain")]
    last = lambda: replaced(zoo / "higher")  # noqa: E731 - beside the two above
    runner = ChangingRunner(*again, last, after=1)
    record = merge(zoo, tmp_path / "m", runner=runner, memory_budget=small(zoo))
    merge(zoo, tmp_path / "fresh")
    assert bytes_of(tmp_path / "m") == bytes_of(tmp_path / "fresh")
    assert sum("was replaced or rewritten" in warning for warning in record["warnings"]) == 3


def test_files_that_are_touched_without_end_fail_the_run(zoo: Path, tmp_path: Path) -> None:
    runner = ChangingRunner(*[lambda: touched(zoo / "plain")] * 20)
    with pytest.raises(SourceChanged, match="started over 5 times") as caught:
        merge(zoo, tmp_path / "m", runner=runner, memory_budget=small(zoo))
    assert caught.value.adapter == str(zoo / "plain")
    assert not list((tmp_path / "m").rglob("*.json"))
    merge(zoo, tmp_path / "m")  # nothing is left in its way


def test_nothing_is_read_again_where_only_rights_changed(zoo: Path, tmp_path: Path) -> None:
    runner = ChangingRunner(lambda: rights_changed(zoo / "plain"), after=2)
    record = merge(zoo, tmp_path / "m", runner=runner, memory_budget=small(zoo))
    merge(zoo, tmp_path / "fresh", memory_budget=small(zoo))
    assert record["resumed_sites"] == record["sites"]
    assert bytes_of(tmp_path / "m") == bytes_of(tmp_path / "fresh")
    assert any(str(zoo / "plain") in warning for warning in record["warnings"])


def test_strict_fails_at_the_first_change(zoo: Path, tmp_path: Path) -> None:
    runner = ChangingRunner(lambda: alpha_changed(zoo / "plain"))
    with pytest.raises(SourceChanged, match="--strict was given") as caught:
        merge(zoo, tmp_path / "m", runner=runner, strict=True)
    assert caught.value.where == str(zoo / "plain" / CONFIG)
    assert not (tmp_path / "m" / CONFIG).exists()
    assert merge(zoo, tmp_path / "m", strict=True)["status"] == "published"


@pytest.mark.parametrize("change", [gone, truncated, refused_now])
def test_an_adapter_that_can_no_longer_be_merged_is_left_out_and_named(
    change: Change, zoo: Path, tmp_path: Path
) -> None:
    runner = ChangingRunner(lambda: change(zoo / "plain"))
    record = merge(zoo, tmp_path / "m", runner=runner, catalog=tmp_path / "c")
    assert [r["adapter"] for r in record["refused"]] == [str(zoo / "plain")]
    assert str(zoo / "plain") not in record["adapters"]
    assert record["warnings"]
    others = [zoo / name for name in ("higher", "rslora", "partial", "patterned")]
    merge(others, tmp_path / "fresh")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "fresh")


def test_a_source_that_was_one_adapter_and_is_gone_is_left_out_and_named(
    zoo: Path, tmp_path: Path
) -> None:
    runner = ChangingRunner(lambda: gone(zoo / "plain"))
    record = merge([zoo / "plain", zoo / "higher"], tmp_path / "m", runner=runner)
    assert record["adapters"] == [str(zoo / "higher")]
    assert [r["adapter"] for r in record["refused"]] == [str(zoo / "plain")]


def test_what_happened_is_logged_once(
    zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lego_ray"):
        merge(zoo, tmp_path / "m", runner=ChangingRunner(lambda: replaced(zoo / "plain")))
    [said] = [r for r in caplog.records if getattr(r, "event", "") == "source changed"]
    assert said.fields["adapter"] == str(zoo / "plain")  # type: ignore[attr-defined]


def test_ranks_chosen_by_what_was_measured_before_a_change_are_measured_again(
    zoo: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"rank": "auto", "rank_error": 0.5}
    runner = ChangingRunner(lambda: None, lambda: longer_header(zoo / "plain"))
    record = merge(
        zoo, tmp_path / "m", runner=runner, **options
    )  # while it solves, after measuring
    merge(zoo, tmp_path / "fresh", **options)
    assert record["warnings"]
    assert bytes_of(tmp_path / "m") == bytes_of(tmp_path / "fresh")


@pytest.mark.parametrize("change", [replaced, alpha_changed])
def test_errors_against_ranks_are_of_one_version(change: Change, zoo: Path, tmp_path: Path) -> None:
    runner = ChangingRunner(lambda: change(zoo / "plain"))
    planned = lego_ray.plan(zoo, rank=4, name="m", errors=True, runner=runner)
    fresh = lego_ray.plan(zoo, rank=4, name="m", errors=True)
    assert planned.errors == fresh.errors
    assert planned.digest == fresh.digest
    assert any(str(zoo / "plain") in warning for warning in planned.warnings)


@pytest.mark.ray
@pytest.mark.parametrize("shards", [0, 2], ids=["whole", "spread"])
def test_workers_of_ray_read_what_was_planned_as_this_process_does(
    shards: int, tmp_path: Path, local_ray: None
) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    options = {"memory_budget": budget_for(zoo, shards)} if shards else {}
    for inner in (InlineRunner(), RayRunner()):
        runner = ChangingRunner(lambda: longer_header(zoo / "a05"), inner=inner)
        record = merge(zoo, tmp_path / inner.name, runner=runner, **options)
        assert any(str(zoo / "a05") in warning for warning in record["warnings"])
        merge(zoo, tmp_path / f"{inner.name}-fresh", **options)
        wanted = bytes_of(tmp_path / f"{inner.name}-fresh")
        assert bytes_of(tmp_path / inner.name) == wanted


LIBRARY = """
sources: [{zoo}]
catalog: {catalog}
defaults: {{rank: 4, options: {{n_init: 2}}}}
merges:
  - name: everything
  - name: few
    adapters: [plain, rslora]
  - name: others
    adapters: [higher, partial]
  - name: measured
    rank: auto
    rank_error: 0.5
    method: svd
"""


def build(tmp_path: Path, output: str, text: str = LIBRARY, **options: Any) -> dict[str, Any]:
    place = tmp_path / "library.yaml"
    place.write_text(text.format(zoo=tmp_path / "zoo", catalog=tmp_path / f"{output}-catalog"))
    return lego_ray.build(place, output=tmp_path / output, **{"runner": "inline", **options})


@pytest.mark.parametrize("change", [replaced, longer_header, alpha_changed, rewritten])
def test_every_merge_of_a_library_is_of_the_files_that_are_there_now(
    change: Change, zoo: Path, tmp_path: Path
) -> None:
    record = build(tmp_path, "out", runner=ChangingRunner(lambda: change(zoo / "plain")))
    fresh = build(tmp_path, "fresh")
    warned = {m["name"] for m in record["merges"] if m["warnings"]}
    assert warned == {"everything", "few", "measured"}
    for mine, wanted in zip(record["merges"], fresh["merges"], strict=True):
        assert mine["status"] == "published"
        assert bytes_of(Path(mine["output"])) == bytes_of(Path(wanted["output"]))


def test_a_library_whose_sources_change_twice_publishes_nothing(zoo: Path, tmp_path: Path) -> None:
    changes = [lambda: replaced(zoo / "plain", 98), lambda: replaced(zoo / "plain", 99)]
    with pytest.raises(SourceChanged):
        build(tmp_path, "out", runner=ChangingRunner(*changes))
    assert not list((tmp_path / "out").rglob(WEIGHTS))
    assert len(build(tmp_path, "out")["merges"]) == 4


def test_merges_published_before_a_change_stay_and_the_others_are_of_the_files_now(
    zoo: Path, tmp_path: Path
) -> None:
    before = merge(zoo, tmp_path / "before", name="everything")
    # The first run of tasks measures for one merge and solves the others.
    runner = ChangingRunner(lambda: None, lambda: replaced(zoo / "plain"))
    record = build(tmp_path, "out", runner=runner)
    merges = {m["name"]: m for m in record["merges"]}
    changed = [name for name, m in merges.items() if m["warnings"]]
    assert "measured" in changed
    fresh = {m["name"]: m for m in build(tmp_path, "fresh")["merges"]}
    wanted = Path(fresh["measured"]["output"])
    assert bytes_of(Path(merges["measured"]["output"])) == bytes_of(wanted)
    assert weights_of(merges["everything"]["output"]) == weights_of(before["output"])


GROUPED = """
sources: [{zoo}]
catalog: {catalog}
defaults: {{rank: 3, options: {{n_init: 2}}}}
merges:
  - name: part
    groups: 2
"""


def test_groups_are_found_among_the_files_that_are_there_now(zoo: Path, tmp_path: Path) -> None:
    runner = ChangingRunner(lambda: replaced(zoo / "plain"))
    record = build(tmp_path, "out", GROUPED, runner=runner)
    fresh = build(tmp_path, "fresh", GROUPED)
    assert [m["merge_id"] for m in record["merges"]] == [m["merge_id"] for m in fresh["merges"]]
    for mine, wanted in zip(record["merges"], fresh["merges"], strict=True):
        assert bytes_of(Path(mine["output"])) == bytes_of(Path(wanted["output"]))


def refresh(tmp_path: Path, output: str, text: str, **options: Any) -> dict[str, Any]:
    place = tmp_path / "library.yaml"
    place.write_text(text.format(zoo=tmp_path / "zoo", catalog=tmp_path / f"{output}-catalog"))
    return lego_ray.refresh(place, output=tmp_path / output, **{"runner": "inline", **options})


@pytest.mark.parametrize("text", [LIBRARY, GROUPED], ids=["library", "groups"])
def test_a_refresh_makes_the_merges_of_the_files_that_are_there_now(
    text: str, zoo: Path, tmp_path: Path
) -> None:
    runner = ChangingRunner(lambda: replaced(zoo / "plain"))
    record = refresh(tmp_path, "out", text, runner=runner)
    fresh = refresh(tmp_path, "fresh", text)
    assert record["status"] == "refreshed"
    for mine, wanted in zip(record["merges"], fresh["merges"], strict=True):
        assert mine["version"] == 1
        assert bytes_of(Path(mine["output"])) == bytes_of(Path(wanted["output"]))
    assert refresh(tmp_path, "out", text)["status"] == "unchanged"


def test_a_refresh_whose_sources_change_twice_makes_nothing_current(
    zoo: Path, tmp_path: Path
) -> None:
    changes = [lambda: replaced(zoo / "plain", 98), lambda: replaced(zoo / "plain", 99)]
    with pytest.raises(SourceChanged):
        refresh(tmp_path, "out", LIBRARY, runner=ChangingRunner(*changes))
    assert not list((tmp_path / "out").rglob(WEIGHTS))
    assert refresh(tmp_path, "out", LIBRARY)["status"] == "refreshed"


def updated(zoo: Path, tmp_path: Path, output: str, **options: Any) -> dict[str, Any]:
    return lego_ray.update(
        tmp_path / "m", output=tmp_path / output, **{"runner": "inline", **options}
    )


@pytest.mark.parametrize("change", CHANGES)
def test_an_update_adds_the_files_that_are_there_now(change: Change, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    merge([zoo / "a0", zoo / "a1"], tmp_path / "m", updatable=True)
    runner = ChangingRunner(lambda: change(zoo / "a2"))
    record = updated(zoo, tmp_path, "v2", add=zoo / "a2", runner=runner)
    fresh = updated(zoo, tmp_path, "fresh", add=zoo / "a2")
    assert record["merge_id"] == fresh["merge_id"]
    assert any(str(zoo / "a2") in warning for warning in record["warnings"])
    assert weights_of(tmp_path / "v2") == weights_of(tmp_path / "fresh")


def test_an_update_that_adds_what_changes_twice_fails(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    merge([zoo / "a0", zoo / "a1"], tmp_path / "m", updatable=True)
    changes = [lambda: replaced(zoo / "a2"), lambda: alpha_changed(zoo / "a2")]
    with pytest.raises(SourceChanged):
        updated(zoo, tmp_path, "v2", add=zoo / "a2", runner=ChangingRunner(*changes))
    assert not (tmp_path / "v2" / WEIGHTS).exists()


def test_an_update_takes_out_what_was_merged_or_nothing(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    merge(zoo, tmp_path / "m", updatable=True)
    runner = ChangingRunner(lambda: touched(zoo / "a2"))
    record = updated(zoo, tmp_path, "v2", remove="a2", runner=runner)
    assert record["status"] == "published"
    runner = ChangingRunner(lambda: rewritten(zoo / "a1"))
    with pytest.raises(RunFailed, match="a1"):
        updated(zoo, tmp_path, "v3", remove="a1", runner=runner)
    assert not (tmp_path / "v3" / WEIGHTS).exists()


def test_a_refit_is_of_the_files_that_are_there_now(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m", updatable=True)
    runner = ChangingRunner(lambda: replaced(zoo / "plain"))
    record = lego_ray.update(tmp_path / "m", refit=True, output=tmp_path / "v2", runner=runner)
    lego_ray.update(tmp_path / "m", refit=True, output=tmp_path / "fresh", runner="inline")
    assert any(str(zoo / "plain") in warning for warning in record["warnings"])
    assert weights_of(tmp_path / "v2") == weights_of(tmp_path / "fresh")


def scanned_then(monkeypatch: pytest.MonkeyPatch, change: Any, *, calls: int = 2) -> None:
    """Does something after some of the scans of `verify`: of the merge, then of the sources."""
    from lego_ray.verification import against_manifest

    real, seen = scan_sources, list[int]()

    def scan(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        seen.append(1)
        if len(seen) == calls:
            change()
        return found

    monkeypatch.setattr(against_manifest, "scan_sources", scan)


def test_verify_compares_with_what_was_merged_or_fails(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(zoo, tmp_path / "m")
    expected = lego_ray.verify(tmp_path / "m", sources=zoo)
    with monkeypatch.context() as patch:
        scanned_then(patch, lambda: touched(zoo / "plain"))
        found = lego_ray.verify(tmp_path / "m", sources=zoo)
    assert found["errors"] == expected["errors"]
    assert str(zoo / "plain") in found["warnings"][0]


@pytest.mark.parametrize("change", [alpha_changed, rewritten, gone])
def test_verify_of_sources_that_are_others_by_now_fails(
    change: Change, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(zoo, tmp_path / "m")
    scanned_then(monkeypatch, lambda: change(zoo / "plain"))
    with pytest.raises(RunFailed, match="plain"):
        lego_ray.verify(tmp_path / "m", sources=zoo)


def test_verify_reads_one_version_of_the_merge(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(zoo, tmp_path / "m")
    merge(zoo, tmp_path / "other", seed=5)
    other = (tmp_path / "other" / WEIGHTS).read_bytes()
    scanned_then(monkeypatch, lambda: (tmp_path / "m" / WEIGHTS).write_bytes(other))
    with pytest.raises(RunFailed):
        lego_ray.verify(tmp_path / "m", sources=zoo)


def test_a_report_is_of_what_was_merged_or_fails(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    merge(zoo, tmp_path / "m")
    lego_ray.report(tmp_path / "m", output=tmp_path / "before.html", sources=zoo)
    with monkeypatch.context() as patch:
        scanned_then(patch, lambda: touched(zoo / "plain"))
        record = lego_ray.report(tmp_path / "m", output=tmp_path / "page.html", sources=zoo)
    assert str(zoo / "plain") in record["warnings"][0]
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "before.html").read_bytes()
    scanned_then(monkeypatch, lambda: replaced(zoo / "plain"))
    with pytest.raises(RunFailed, match="plain"):
        lego_ray.report(tmp_path / "m", output=tmp_path / "other.html", sources=zoo)


def test_an_unfinished_run_of_what_a_source_was_is_not_taken_on(zoo: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(zoo, tmp_path / "m", runner=ChangingRunner(stop, after=2), memory_budget=small(zoo))
    rewritten(zoo / "plain")
    try:
        merge(zoo, tmp_path / "m", memory_budget=small(zoo))
    except OutputExists:
        return
    merge(zoo, tmp_path / "fresh")
    assert bytes_of(tmp_path / "m") == bytes_of(tmp_path / "fresh")


def test_a_run_that_is_taken_on_starts_over_where_a_source_changes_meanwhile(
    zoo: Path, tmp_path: Path
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    budget = small(zoo)
    with pytest.raises(KeyboardInterrupt):
        merge(zoo, tmp_path / "m", runner=ChangingRunner(stop, after=2), memory_budget=budget)
    runner = ChangingRunner(lambda: rewritten(zoo / "plain"), after=1)
    record = merge(zoo, tmp_path / "m", runner=runner, memory_budget=budget)
    merge(zoo, tmp_path / "fresh")
    assert record["resumed_sites"] == 0
    assert bytes_of(tmp_path / "m") == bytes_of(tmp_path / "fresh")
