"""What a kill leaves is swept by the next run there, the next refresh or gc; what is young stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.output.checkpoints.run_folder import READINGS_FOLDER, UNCHANGED_FOLDER
from lego_ray.storage import remains
from tests.merging.merged_place import STORES, Place, fresh_place
from tests.zoo import write_adapter

DAYS = 30 * 24 * 3600
PROBE = ".lego-ray-probe-" + "0" * 32
TEMPORARY = ".lego-ray-tmp-" + "0" * 16
LEASES = ".lego-ray/refresh"
RECIPE = """
sources: [{zoo}]
catalog: {root}/catalog
output: {root}/library
defaults: {{rank: 2, options: {{n_init: 1}}}}
merges: [{{name: x}}]
"""


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return fresh_place(request, tmp_path)


@pytest.fixture(params=STORES)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return fresh_place(request, tmp_path)


def run_killed(point: str, call: str, **arguments: Any) -> None:
    words = [sys.executable, "-m", "tests.merging.killed_run", point, call]
    done = subprocess.run([*words, json.dumps(arguments)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


def age(*roots: str | Path) -> None:
    """Makes all that is there as old as if it had been left a month ago."""
    for root in roots:
        for path in Path(root).rglob("*"):
            if path.is_file():
                os.utime(path, (path.stat().st_mtime - DAYS,) * 2)


def ours(root: str | Path) -> list[str]:
    """Files of lego-ray below a root, apart from merges and from what refreshes keep for the next."""
    found = (p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file())
    kept = (UNCHANGED_FOLDER, READINGS_FOLDER)
    return sorted(k for k in found if ".lego-ray" in k and not any(f in k for f in kept))


def merging(place: Place, name: str, **more: Any) -> dict[str, Any]:
    return {
        "sources": str(place.zoo),
        "rank": 2,
        "n_init": 1,
        "output": place.uri(name),
        "catalog": place.catalog,
        "runner": "inline",
        **more,
    }


def library(place: Place) -> Path:
    recipe = place.zoo.parent / "library.yaml"
    recipe.write_text(RECIPE.format(zoo=place.zoo, root=place.root))
    return recipe


@pytest.mark.parametrize("point", ["probe", "temporary", "checkpoint", "publish"])
def test_the_same_merge_again_leaves_nothing_of_what_was_killed(place: Place, point: str) -> None:
    given = merging(place, "merged")
    run_killed(point, "merge", **given)
    left = ours(place.root)
    assert left
    age(place.root, place.catalog)
    assert lego_ray.merge(**given)["status"] == "published"
    assert ours(place.root) == []
    assert lego_ray.check_catalog(place.catalog, deep=True)["ok"]


@pytest.mark.parametrize("point", ["probe", "temporary", "checkpoint", "publish"])
def test_gc_takes_what_no_run_comes_back_for(place: Place, point: str) -> None:
    lego_ray.merge(**merging(place, "recorded"))
    run_killed(point, "merge", **merging(place, "given-up", seed=1))
    now: dict[str, Any] = {"catalog": place.catalog, "root": place.root, "delete": True}
    assert lego_ray.collect_garbage(**now)["files"] == 0, "it is young"
    left = ours(place.root)
    assert left
    age(place.root)
    told = lego_ray.collect_garbage(place.catalog, place.root)
    assert ours(place.root) == left, "a dry run"
    done = lego_ray.collect_garbage(**now)
    assert {**done, "deleted": False} == told
    assert ours(place.root) == []
    assert [p.name for p in Path(place.root).iterdir() if any(p.iterdir())] == ["recorded"]


def test_the_next_run_sweeps_old_probes_and_leaves_young_ones(
    anywhere: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in (anywhere.root, anywhere.catalog):
        remains_of(root).create(PROBE, b"first")
    anywhere.store.create(f"merged/{PROBE}", b"first")
    lego_ray.merge(**merging(anywhere, "merged"))
    assert remains_of(anywhere.catalog).stat(PROBE), "it may be another's"
    monkeypatch.setattr(remains, "OLD", timedelta(seconds=1))
    time.sleep(2.1)  # two of the seconds that S3 counts in
    anywhere.store.create(f"merged/{PROBE}x", b"someone's")
    lego_ray.merge(**{**merging(anywhere, "merged"), "catalog": f"{anywhere.catalog}2"})
    lego_ray.scan(anywhere.zoo, catalog=anywhere.catalog)
    write_adapter(anywhere.zoo / "new", seed=7)
    lego_ray.scan(anywhere.zoo, catalog=anywhere.catalog)
    assert [i.key for i in remains_of(anywhere.catalog).list(".lego-ray-probe")] == []
    kept = [i.key for i in anywhere.store.list("merged/.lego-ray-probe")]
    assert kept == [f"merged/{PROBE}x"]
    assert anywhere.store.stat(PROBE), "no run writes at that root"


def remains_of(root: str) -> Any:
    from lego_ray.storage.open import open_store

    return open_store(root)


@pytest.mark.parametrize("point", ["lease", "look"])
def test_a_refresh_that_has_nothing_to_do_sweeps_too(place: Place, point: str) -> None:
    recipe = library(place)
    lego_ray.refresh(recipe, runner="inline")
    write_adapter(place.zoo / "new", seed=5)
    run_killed("lease", "refresh", recipe=str(recipe), runner="inline")
    [lease] = ours(f"{place.root}/library")
    assert lease == f"{LEASES}/lease-00000002.json"
    if point == "look":
        run_killed("look", "refresh", recipe=str(recipe), runner="inline")
        assert len(ours(f"{place.root}/library")) == 2
    (place.zoo / "new" / "adapter_config.json").unlink()
    (place.zoo / "new" / "adapter_model.safetensors").unlink()
    assert lego_ray.refresh(recipe, runner="inline")["status"] == "busy"
    assert lease in ours(f"{place.root}/library"), "it may live"
    age(f"{place.root}/library/{LEASES}")
    assert lego_ray.refresh(recipe, runner="inline")["status"] == "unchanged"
    assert ours(f"{place.root}/library") == []


def test_a_refresh_that_has_nothing_to_do_clears_what_its_merges_kept(place: Place) -> None:
    recipe = library(place)
    run_killed("clear", "refresh", recipe=str(recipe), runner="inline")
    age(f"{place.root}/library/{LEASES}")
    kept = [key for key in ours(f"{place.root}/library") if key.endswith("run.json")]
    assert kept, "it was killed when all was recorded, before it deleted its finished tasks"
    assert lego_ray.refresh(recipe, runner="inline")["status"] == "unchanged"
    assert ours(f"{place.root}/library") == []


def test_gc_takes_a_dead_lease_whole_and_leaves_a_living_one(place: Place) -> None:
    recipe = library(place)
    lego_ray.refresh(recipe, runner="inline")
    catalog, leases = f"{place.root}/catalog", Path(place.root, "library", LEASES)
    store = place.store
    for name in ("lease-00000004.json", "beat-00000004-00000009", "look-" + "0" * 16):
        store.create(f"library/{LEASES}/{name}", b"{}")
    age(leases)
    store.create(f"library/{LEASES}/beat-00000004-00000010", b"")
    assert lego_ray.collect_garbage(catalog, place.root, delete=True)["outputs"] == []
    assert len(ours(leases.parent.parent)) == 4
    age(leases)
    record = lego_ray.collect_garbage(catalog, place.root, delete=True)
    [told] = record["outputs"]
    assert (told["kind"], told["files"], told["output"]) == (
        "rest of a refresh",
        4,
        f"{place.root}/library",
    )
    assert ours(place.root) == []


@pytest.mark.parametrize("inside", [True, False])
def test_gc_takes_what_a_kill_left_in_the_catalogs_tables(place: Place, inside: bool) -> None:
    catalog = f"{place.root}/catalog" if inside else place.catalog
    lego_ray.merge(**merging(place, "recorded", catalog=catalog))
    left = [
        "merges/_delta_log/_commit_0a-1b.json.tmp",
        "merges/_delta_log/00000000000000000009.json#1",
        "msus/part-00000-0a1b-c000.snappy.parquet#2",
        PROBE,
        f"adapters/{TEMPORARY}",
    ]
    others = ["merges/notes#1", "notes.json#1", "merges/_delta_log/_commit_mine.json"]
    for key in (*left, *others):
        path = Path(catalog, key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    age(place.root, catalog)
    record = lego_ray.collect_garbage(catalog, place.root, delete=True)
    assert record["files"] == len(left)
    assert [key for key in left if Path(catalog, key).exists()] == []
    assert [key for key in others if Path(catalog, key).exists()] == others
    assert lego_ray.check_catalog(catalog, deep=True)["ok"]


def test_what_links_lead_to_is_left_alone(place: Place, tmp_path: Path) -> None:
    lego_ray.merge(**merging(place, "recorded"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in (PROBE, TEMPORARY):
        (elsewhere / name).write_bytes(b"x")
    Path(place.root, "linked").symlink_to(elsewhere)
    age(elsewhere)
    lego_ray.collect_garbage(place.catalog, place.root, delete=True)
    assert sorted(p.name for p in elsewhere.iterdir()) == [PROBE, TEMPORARY]
