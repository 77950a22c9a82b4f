"""A refresh that slept past its lease: another took over, and nothing of the sleeper becomes current."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.catalog.merges import append_merge, make_current
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure, last_tenure
from lego_ray.errors import CatalogNotFound, RunFailed
from lego_ray.library import refresh
from lego_ray.storage.open import open_store
from tests.catalog.sample import merge
from tests.library.stopped_refresh import POINTS
from tests.zoo import write_adapter, write_zoo

RECIPE = """
sources: [{zoo}]
catalog: {place}/catalog
output: {place}/library
defaults: {{rank: 2, options: {{n_init: 1}}}}
merges: [{{name: x}}]
"""
SECONDS = 120


def library(tmp_path: Path, place: str) -> Path:
    write_zoo(tmp_path / "zoo", 3)
    recipe = tmp_path / "library.yaml"
    recipe.write_text(RECIPE.format(zoo=tmp_path / "zoo", place=place))
    return recipe


@contextmanager
def stopped(recipe: Path, point: str) -> Iterator[subprocess.Popen[str]]:
    """A refresh, stopped at a point of its work."""
    words = [sys.executable, "-m", "tests.library.stopped_refresh", str(recipe), point]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), f"it ended instead, with {status}"
            yield process
        finally:
            process.kill()


def goes_on(process: subprocess.Popen[str]) -> str:
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=SECONDS)
    return said.strip()


def current(place: str) -> dict[str, Any]:
    rows = lego_ray.catalog.list_merges(f"{place}/catalog").to_pylist()
    return max(rows, key=lambda row: int(row["version"]))


def age(place: Path) -> None:
    for sign in (place / "library/.lego-ray/refresh").iterdir():
        os.utime(sign, (0, 0))


@pytest.mark.parametrize("point", POINTS)
def test_what_slept_past_its_lease_loses_to_the_one_that_took_over(
    tmp_path: Path, point: str
) -> None:
    place = str(tmp_path / "place")
    recipe = library(tmp_path, place)
    if point == "renumber":  # the zoo goes back to what it was
        lego_ray.refresh(recipe, runner="inline")
        write_adapter(tmp_path / "zoo" / "between", seed=7)
        lego_ray.refresh(recipe, runner="inline")
        shutil.rmtree(tmp_path / "zoo" / "between")
    with stopped(recipe, point) as sleeper:
        age(Path(place))
        write_adapter(tmp_path / "zoo" / "new", seed=9)
        second = lego_ray.refresh(recipe, runner="inline")
        assert second["status"] == "refreshed"
        won = current(place)
        said = goes_on(sleeper)
    assert said.startswith("RunFailed"), said
    assert f"pid {os.getpid()}" in said
    mine = 3 if point == "renumber" else 1
    assert f"has taken over (turn {mine + 1}, this one had {mine})" in said
    assert current(place) == won
    assert len(won["adapter_ids"]) == 4
    assert lego_ray.check_catalog(f"{place}/catalog", deep=True)["problems"] == []
    assert lego_ray.refresh(recipe, runner="inline")["status"] == "unchanged"
    # Its work is kept, not lost: the merge is made, or taken on, when its adapters are back.
    shutil.rmtree(tmp_path / "zoo" / "new")
    back = lego_ray.refresh(recipe, runner="inline")
    assert len(current(place)["adapter_ids"]) == 3
    assert lego_ray.verify(back["merges"][0]["output"])["ok"]
    assert lego_ray.check_catalog(f"{place}/catalog", deep=True)["problems"] == []


@pytest.mark.s3
def test_the_same_on_s3(tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"s3://{s3_bucket}/team"
    recipe = library(tmp_path, place)
    with stopped(recipe, "commit") as sleeper:
        # S3 lets nobody make an object older.
        monkeypatch.setattr(
            "lego_ray.api.refresh.checked_silence", lambda given: timedelta(seconds=2)
        )
        time.sleep(4)
        write_adapter(tmp_path / "zoo" / "new", seed=9)
        assert lego_ray.refresh(recipe, runner="inline")["status"] == "refreshed"
        won = current(place)
        said = goes_on(sleeper)
    assert said.startswith("RunFailed"), said
    assert current(place) == won
    assert lego_ray.check_catalog(f"{place}/catalog", deep=True)["problems"] == []


def test_one_that_merely_slept_goes_on(tmp_path: Path) -> None:
    recipe = library(tmp_path, str(tmp_path / "place"))
    with stopped(recipe, "commit") as sleeper:
        age(tmp_path / "place")
        assert goes_on(sleeper) == "refreshed"


def test_numbers_of_turns_only_grow(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    recipe = library(tmp_path, place)
    for turn in (1, 2):
        write_adapter(tmp_path / "zoo" / f"new-{turn}", seed=turn)
        lego_ray.refresh(recipe, runner="inline")
        name = f"{refresh.TURN}:{place}/library"
        assert last_tenure(open_catalog(f"{place}/catalog"), name) == turn
    assert lego_ray.refresh(recipe, runner="inline")["status"] == "unchanged"
    assert last_tenure(open_catalog(f"{place}/catalog"), name) == 2


def test_turns_at_two_libraries_of_one_catalog_are_apart(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path / "catalog"))
    one, other = Tenure("one", 1, {"pid": "1"}), Tenure("other", 5, {"pid": "2"})
    one.claim(catalog)
    other.claim(catalog)
    assert append_merge(catalog, merge(), [], [], one)
    assert append_merge(catalog, merge(merge_id="n" * 64, version=2), [], [], other)
    assert make_current(catalog, "m" * 64, one) == 3
    Tenure("one", 2, {"pid": "3"}).claim(catalog)
    with pytest.raises(RunFailed, match=r"pid 3 has taken over \(turn 2, this one had 1\)"):
        make_current(catalog, "n" * 64, one)
    assert make_current(catalog, "n" * 64, other) == 4


def test_a_turn_is_claimed_once(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path / "catalog"))
    Tenure("x", 2, {}).claim(catalog)
    for late in (Tenure("x", 2, {}), Tenure("x", 1, {})):
        with pytest.raises(RunFailed, match="has taken over"):
            late.claim(catalog)


@pytest.mark.parametrize("said", ["{", "[]", '{"owner": ["x"]}', '{"token": 1}', "[" * 100_000])
def test_a_claim_that_others_wrote_over_still_counts(said: str, tmp_path: Path) -> None:
    Tenure("x", 2, {"pid": "1"}).claim(Catalog(str(tmp_path / "catalog")))
    [log] = (tmp_path / "catalog" / "merges" / "_delta_log").glob("*1.json")
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "x" in action.get("commitInfo", {}):
            action["commitInfo"]["x"] = said
    log.write_text("\n".join(map(json.dumps, actions)))
    assert said == next(a for a in actions if "commitInfo" in a)["commitInfo"]["x"]
    with pytest.raises(RunFailed, match="another process has taken over"):
        Tenure("x", 1, {}).claim(Catalog(str(tmp_path / "catalog")))


def test_an_empty_table_of_merges_makes_nothing_garbage(tmp_path: Path) -> None:
    place = tmp_path / "place"
    lego_ray.merge(write_zoo(tmp_path / "zoo", 2), rank=2, output=place / "made", runner="inline")
    Tenure("x", 1, {}).claim(Catalog(str(place / "catalog")))
    with pytest.raises(CatalogNotFound):
        lego_ray.collect_garbage(place / "catalog", place, older_than="0m", force=True)
    assert list(open_store(str(place)).list("made/"))
