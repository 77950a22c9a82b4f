"""A library refreshed: only what is new is made, and of two at once one works."""

from __future__ import annotations

import os
import shutil
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, ObjectNotFound, StorageError
from lego_ray.storage.file import FileStore
from lego_ray.storage.lease import STALE_AFTER
from tests.merging.runs import N_INIT, kept, many_sites, started, until
from tests.zoo import files_of, mixed_zoo, weights_of, write_adapter

RECIPE = """
sources: [{zoo}]
catalog: {catalog}
output: {output}
defaults: {{rank: 4, options: {{n_init: 2}}}}
merges:
  - name: everything
  - name: few
    adapters: [plain, rslora]
    rank: 3
"""
LEASE = Path(".lego-ray/refresh/lease-00000001.json")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return mixed_zoo(tmp_path / "zoo")


def recipe(tmp_path: Path, text: str = RECIPE) -> Path:
    places = {name: tmp_path / name for name in ("zoo", "catalog", "output")}
    place = tmp_path / "library.yaml"
    place.write_text(text.format(**places))
    return place


def refresh(tmp_path: Path, text: str = RECIPE, **options: Any) -> dict[str, Any]:
    return lego_ray.refresh(recipe(tmp_path, text), runner="inline", **options)


def current(tmp_path: Path) -> dict[str, Path]:
    """What a reader of the catalog takes for the current versions."""
    rows = lego_ray.catalog.sql(
        tmp_path / "catalog",
        "SELECT name, arg_max(output_uri, version) AS uri FROM merges GROUP BY name",
    ).to_pylist()
    return {row["name"]: Path(row["uri"]) for row in rows}


def test_the_status_of_a_library_is_that_of_its_newest_versions(zoo: Path, tmp_path: Path) -> None:
    refresh(tmp_path)
    first = current(tmp_path)
    write_adapter(zoo / "new", seed=77)
    refresh(tmp_path)
    before = files_of(tmp_path)
    found = lego_ray.library_status(tmp_path / "output")
    assert (found.state, found.holder, found.former) == ("published", None, 1)
    assert {m.name: Path(m.output) for m in found.merges} == current(tmp_path)
    assert current(tmp_path)["few"] == first["few"]
    assert files_of(tmp_path) == before
    told = CliRunner().invoke(cli, ["status", str(tmp_path / "output")])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("published: 2 of 2 merges published, 1 former version\n")
    assert str(current(tmp_path)["everything"]) in told.stdout
    with pytest.raises(ObjectNotFound, match="or below"):
        lego_ray.library_status(tmp_path / "zoo")


def statuses(record: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {m["name"]: (m["status"], m["version"]) for m in record["merges"]}


def test_each_version_is_what_a_build_makes_and_the_catalog_says_which_is_current(
    zoo: Path, tmp_path: Path
) -> None:
    record = refresh(tmp_path)
    assert record["status"] == "refreshed"
    assert record["holder"] is None
    assert record["new"] == record["adapters"] == len(list(zoo.iterdir()))
    assert statuses(record) == {"everything": ("published", 1), "few": ("published", 1)}
    built = lego_ray.build(
        recipe(tmp_path), output=tmp_path / "built", catalog=tmp_path / "other", runner="inline"
    )
    for merge, wanted in zip(record["merges"], built["merges"], strict=True):
        assert merge["merge_id"] == wanted["merge_id"]
        place = tmp_path / "output" / merge["name"] / merge["merge_id"][:12]
        assert merge["output"] == str(place)
        assert current(tmp_path)[merge["name"]] == place
        assert weights_of(place) == weights_of(wanted["output"])
        assert lego_ray.verify(place, sources=zoo)["ok"]
    kept = sorted(p.name for p in (tmp_path / "output/.lego-ray").iterdir())
    assert kept == ["readings", "unchanged"]


def test_nothing_new_writes_nothing(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = refresh(tmp_path)
    before = everything(tmp_path)
    calls: list[str] = []
    for name in ("create", "delete"):
        monkeypatch.setattr(FileStore, name, lambda store, key, *data: calls.append(key))
    record = refresh(tmp_path)
    assert record["status"] == "unchanged"
    assert statuses(record) == dict.fromkeys(("everything", "few"), ("already published", 1))
    assert [m["output"] for m in record["merges"]] == [m["output"] for m in first["merges"]]
    assert calls == []
    assert everything(tmp_path) == before
    assert record["bytes_read"] == 0


def everything(tmp_path: Path) -> dict[str, Any]:
    """All that a write would show in: paths, times and bytes, and the tables' versions.

    Except for what a refresh keeps of what it found when there was nothing to do.
    """
    files = {
        str(path.relative_to(tmp_path)): path.stat().st_mtime_ns
        for root in ("output", "catalog")
        for path in sorted((tmp_path / root).rglob("*"))
        if ".lego-ray" not in path.parts
    }
    tables = {
        name: DeltaTable(str(tmp_path / "catalog" / name)).version()
        for name in ("adapters", "merges", "merge_sites", "msus")
    }
    return {**files, **tables}


def test_only_what_changed_is_merged_and_former_versions_stay(zoo: Path, tmp_path: Path) -> None:
    first = refresh(tmp_path)
    kept_files = {m["name"]: files_of(Path(m["output"])) for m in first["merges"]}
    write_adapter(zoo / "newcomer", seed=77)
    record = refresh(tmp_path)
    assert record["status"] == "refreshed"
    assert record["new"] == 1
    assert statuses(record) == {"everything": ("published", 2), "few": ("already published", 1)}
    for merge in first["merges"]:
        assert files_of(Path(merge["output"])) == kept_files[merge["name"]]
    lego_ray.merge(zoo, rank=4, n_init=2, output=tmp_path / "everything", runner="inline")
    assert weights_of(current(tmp_path)["everything"]) == weights_of(tmp_path / "everything")

    record = refresh(tmp_path, RECIPE.replace("rank: 3", "rank: 2"))
    assert statuses(record) == {"everything": ("already published", 2), "few": ("published", 2)}
    assert refresh(tmp_path, RECIPE.replace("rank: 3", "rank: 2"))["status"] == "unchanged"


def test_going_back_makes_the_merge_of_then_current_without_merging(
    zoo: Path, tmp_path: Path
) -> None:
    first = refresh(tmp_path)
    write_adapter(zoo / "newcomer", seed=77)
    refresh(tmp_path)
    shutil.rmtree(zoo / "newcomer")
    # What the last refresh kept of headers is read, and no adapter.
    [readings] = (tmp_path / "output/.lego-ray/readings").iterdir()
    kept = readings.stat().st_size
    record = refresh(tmp_path)
    assert statuses(record)["everything"] == ("already published", 3)
    assert record["bytes_read"] == kept < lego_ray.scan(zoo)["bytes_read"]
    then = {m["name"]: Path(m["output"]) for m in first["merges"]}
    assert current(tmp_path) == then
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT * FROM merges").to_pylist()
    assert sorted((r["name"], r["version"]) for r in rows) == [
        *(("everything", 2), ("everything", 3), ("few", 1))
    ]
    assert lego_ray.check_catalog(tmp_path / "catalog", deep=True)["problems"] == []
    assert refresh(tmp_path)["status"] == "unchanged"


def test_a_library_that_build_made_is_taken_over_as_it_is(zoo: Path, tmp_path: Path) -> None:
    lego_ray.build(recipe(tmp_path), runner="inline")
    lego_ray.scan(zoo, catalog=tmp_path / "catalog")
    before = everything(tmp_path)
    assert refresh(tmp_path)["status"] == "unchanged"
    assert everything(tmp_path) == before
    write_adapter(zoo / "newcomer", seed=77)
    refresh(tmp_path)
    assert current(tmp_path)["few"] == tmp_path / "output/few"
    assert current(tmp_path)["everything"].parent == tmp_path / "output/everything"


def test_a_catalog_that_lists_the_adapters_is_not_fed_its_own_merges(
    zoo: Path, tmp_path: Path
) -> None:
    lego_ray.scan(zoo, catalog=tmp_path / "catalog")
    text = RECIPE.replace("sources: [{zoo}]\n", "")
    refresh(tmp_path, text)
    lego_ray.scan(tmp_path / "output", catalog=tmp_path / "catalog")
    assert refresh(tmp_path, text)["status"] == "unchanged"


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (RECIPE.replace("output: {output}\n", ""), {}, "Give --output"),
        (RECIPE.replace("catalog: {catalog}\n", ""), {}, "Give --catalog"),
        (RECIPE.replace("{output}", "{zoo}/library"), {}, "lies in the source"),
        (RECIPE, {"stale_after": "0m"}, "Give 1m or more"),
        (RECIPE, {"stale_after": "soon"}, "is not a duration"),
    ],
)
def test_bad_input_says_what_to_do_and_writes_nothing(
    text: str, options: dict[str, str], says: str, zoo: Path, tmp_path: Path
) -> None:
    recipe(tmp_path, text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidOption) as caught:
        refresh(tmp_path, text, **options)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_refresh_that_fails_lets_go_of_the_library(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FileStore.create

    def fails(store: FileStore, key: str, data: bytes) -> None:
        if key.endswith(".checkpoint"):
            raise StorageError(store.uri, "the disk is full")
        real(store, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "create", fails)
        with pytest.raises(StorageError):
            refresh(tmp_path)
    assert not (tmp_path / "output" / LEASE).exists()
    assert refresh(tmp_path)["status"] == "refreshed"


def test_the_command_shows_versions_and_who_is_at_it(zoo: Path, tmp_path: Path) -> None:
    words = ["refresh", str(recipe(tmp_path)), "--runner", "inline"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "refreshed: " in done.output
    assert "unchanged: " in CliRunner().invoke(cli, words).output
    lease = tmp_path / "output" / LEASE
    lease.parent.mkdir(parents=True)
    lease.write_text('{"host": "elsewhere", "pid": "7"}')
    done = CliRunner().invoke(cli, words)
    assert (done.exit_code, "host elsewhere, pid 7" in done.output) == (0, True)


SLOW = """
sources: [{zoo}]
catalog: {catalog}
output: {output}
merges: [{{name: m, rank: 8, options: {{n_init: N_INIT}}}}]
""".replace("N_INIT", str(N_INIT))


def test_of_two_processes_one_works_and_one_killed_is_taken_over_from(tmp_path: Path) -> None:
    zoo, budget = many_sites(tmp_path, 12)
    library = recipe(tmp_path, SLOW)

    def again() -> dict[str, Any]:
        return lego_ray.refresh(library, runner="inline", memory_budget=budget)

    words = ["refresh", str(library), "--runner", "inline", "--memory-budget", str(budget)]
    lease = tmp_path / "output" / LEASE
    with started(words) as first:
        until(lambda: bool(kept_below(tmp_path / "output")), first)
        os.kill(first.pid, signal.SIGSTOP)  # at work, however fast this machine is
        second = again()
        assert second["status"] == "busy"
        holder = second["holder"]
        assert holder["pid"] == str(first.pid)
        last, free = (
            datetime.fromisoformat(holder[key]) for key in ("last_sign_at", "may_be_taken_over_at")
        )
        assert free - last == STALE_AFTER
        found = lego_ray.library_status(tmp_path / "output")
        assert found.state == "unfinished"
        assert found.holder == {k: v for k, v in holder.items() if k != "may_be_taken_over_at"}
        [merge] = found.merges
        assert (merge.state, merge.name) == ("unfinished", "m")
        assert merge == lego_ray.status(merge.output)
        assert second["merges"] == []
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert again()["status"] == "busy"  # for all that can be known yet
    for sign in lease.parent.iterdir():
        os.utime(sign, (0, 0))
    third = again()
    assert third["status"] == "refreshed"
    assert third["merges"][0]["resumed_sites"] > 0
    assert not lease.parent.exists()
    assert again()["status"] == "unchanged"
    alone = tmp_path / "alone"
    lego_ray.merge(zoo, rank=8, name="m", n_init=N_INIT, output=alone, runner="inline")
    assert weights_of(third["merges"][0]["output"]) == weights_of(alone)


def kept_below(output: Path) -> list[Path]:
    return [each for version in output.glob("m/*") for each in kept(version)]


def test_groups_are_found_anew_and_written_when_they_change(zoo: Path, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("  - name: few")] + "    groups: 2\n"
    first = refresh(tmp_path, text)
    [grouping] = first["groups"]
    names = [m["name"] for m in first["merges"]]
    assert names
    assert set(names) <= {"everything-1", "everything-2"}
    before = files_of(tmp_path / "output"), files_of(tmp_path / "catalog")
    again = refresh(tmp_path, text)
    assert again["status"] == "unchanged"
    assert again["groups"] == [grouping]
    assert (files_of(tmp_path / "output"), files_of(tmp_path / "catalog")) == before
    write_adapter(zoo / "newcomer", seed=77)
    assert refresh(tmp_path, text)["new"] == 1
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT DISTINCT grouping_id FROM groups")
    assert rows.num_rows == 2
