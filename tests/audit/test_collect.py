"""Garbage is what lego-ray wrote and no row refers to; nothing else is ever touched."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.audit import collect as collecting
from lego_ray.catalog.upkeep.leftovers import find_leftovers
from lego_ray.errors import CatalogNotFound, InvalidOption, ObjectNotFound
from lego_ray.merging import finish
from tests.merging.merged_place import FILES, MANIFEST, STORES, Place, fresh_place, under
from tests.zoo import write_adapter

WEIGHTS = "adapter_model.safetensors"
NOW: dict[str, Any] = {"older_than": timedelta(0), "force": True}


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return fresh_place(request, tmp_path)


@pytest.fixture
def on_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return fresh_place(request, tmp_path)


def collect(place: Place, **options: Any) -> dict[str, Any]:
    return lego_ray.collect_garbage(place.catalog, place.root, **{**NOW, **options})


def crash(*args: object) -> None:
    raise KeyboardInterrupt


def found(record: dict[str, Any]) -> dict[str, str]:
    return {each["output"].rsplit("/", 1)[-1]: each["kind"] for each in record["outputs"]}


def kept(record: dict[str, Any]) -> dict[str, str]:
    return {each["output"].rsplit("/", 1)[-1]: each["reason"] for each in record["kept"]}


def test_unreferenced_outputs_and_leftovers_go_and_all_else_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.merge("recorded")
    place.merge("forgotten", recorded=False, seed=1)
    place.merge("cut-short", recorded=False, seed=2)
    place.store.delete("cut-short/adapter_config.json")
    with monkeypatch.context() as patch:
        patch.setattr(finish, "publish", crash)
        with pytest.raises(KeyboardInterrupt):
            place.merge("given-up", seed=3)
    place.marked("recorded")  # of a run that ended between publishing and tidying up
    others = ["notes.txt", "forgotten/notes.txt", "given-up/.lego-ray/mine.txt", "given-up/a.bin"]
    for key in others:
        place.store.create(key, b"someone's")
    before = place.contents()

    told = collect(place)
    assert found(told) == {
        "forgotten": "output",
        "cut-short": "publish cut short",
        "given-up": "unfinished run",
        "recorded": "rest of a run",
    }
    assert (told["deleted"], told["files"], told["kept"]) == (False, 4 + 3 + 2 + 2, [])
    assert place.contents() == before, "a dry run changes nothing"

    done = collect(place, delete=True)
    assert {**done, "deleted": False} == told, "what was told is what is done"
    after = place.contents()
    assert sorted(after) == sorted([*others, *(f"recorded/{name}" for name in FILES)])
    assert after == {key: before[key] for key in after}
    assert told["bytes"] == sum(len(data) for key, data in before.items() if key not in after)
    assert lego_ray.check_catalog(place.catalog, deep=True)["ok"]
    assert collect(place, delete=True)["outputs"] == []


def test_what_is_young_may_be_of_a_running_merge(on_disk: Place) -> None:
    on_disk.merge("recorded")
    on_disk.merge("forgotten", recorded=False, seed=1)
    on_disk.marked("running")
    before = on_disk.contents()
    record = collect(on_disk, delete=True, older_than="1d")
    assert record["outputs"] == []
    assert kept(record).keys() == {"forgotten", "running"}
    assert on_disk.contents() == before
    # One young file is enough.
    old = time.time() - timedelta(days=2).total_seconds()
    for file in Path(on_disk.root).rglob("*"):
        os.utime(file, (old, old))
    os.utime(next(Path(on_disk.root, "running").rglob("*.checkpoint")))
    assert found(collect(on_disk, older_than="1d")) == {"forgotten": "output"}


def test_a_merge_under_way_is_left_to_finish(
    on_disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each point where it could be looked at: its tasks are saved, it is published, recorded."""
    on_disk.merge("first")
    seen = []
    for step in ("publish", "record_adapters", "append_merge"):
        real = getattr(finish, step)

        def between(*args: Any, real: Any = real, step: str = step, **kwargs: Any) -> Any:
            record = collect(on_disk, delete=True, older_than="1d")
            seen.append((step, record["outputs"], record["rows_deleted"]))
            return real(*args, **kwargs)

        monkeypatch.setattr(finish, step, between)
    assert on_disk.merge("second", seed=1)["status"] == "published"
    assert [(outputs, rows) for _, outputs, rows in seen] == [([], 0)] * 3
    assert lego_ray.check_catalog(on_disk.catalog, deep=True)["ok"]


def test_a_copy_or_a_source_of_a_recorded_merge_is_referred_to(on_disk: Place) -> None:
    on_disk.merge("recorded")
    shutil.copytree(on_disk.uri("recorded"), on_disk.uri("copy"))
    on_disk.merge("source", recorded=False, seed=1)
    on_disk.merge("of-it", sources=[on_disk.uri("source")], seed=2)
    record = collect(on_disk, delete=True)
    assert (record["outputs"], record["kept"]) == ([], [])


@pytest.mark.parametrize("name", [WEIGHTS, "README.md"])
def test_an_output_that_someone_changed_is_their_work(on_disk: Place, name: str) -> None:
    on_disk.merge("recorded")
    on_disk.merge("changed", recorded=False, seed=1)
    data = bytearray(on_disk.store.read(f"changed/{name}"))
    data[-1] ^= 1  # of the same size
    on_disk.rewrite(f"changed/{name}", bytes(data))
    before = on_disk.contents()
    record = collect(on_disk, delete=True)
    assert kept(record) == {"changed": f"{name} is not what was published"}
    assert record["outputs"] == []
    assert on_disk.contents() == before


def test_what_has_no_manifest_or_marker_of_ours_is_never_looked_at(on_disk: Place) -> None:
    on_disk.merge("recorded")
    write_adapter(Path(on_disk.root, "adapter"))
    on_disk.store.create("empty/.lego-ray/notes.txt", b"x")
    on_disk.store.create("foreign/lego_ray_manifest.json", b'{"manifest_version": 99}')
    on_disk.store.create(f"lost/.lego-ray/{'e' * 64}/00000-a.checkpoint", b"x")
    on_disk.store.create("other/.lego-ray/run.json", b"no json")
    before = on_disk.contents()
    record = collect(on_disk, delete=True)
    assert record["outputs"] == []
    assert kept(record) == {
        "foreign": "its manifest cannot be read",
        "lost": "there is no .lego-ray/run.json that this release can read",
        "other": "there is no .lego-ray/run.json that this release can read",
    }
    assert on_disk.contents() == before


def test_what_links_lead_to_is_left_alone(on_disk: Place, tmp_path: Path) -> None:
    on_disk.merge("recorded")
    on_disk.merge("forgotten", recorded=False, seed=1)
    outside = shutil.move(on_disk.uri("forgotten"), tmp_path / "outside")
    Path(on_disk.root, "link").symlink_to(outside)
    inside = Path(on_disk.root, "inside")
    inside.mkdir()
    for name in FILES:
        (inside / name).symlink_to(tmp_path / "outside" / name)
    record = collect(on_disk, delete=True)
    assert record["outputs"] == []
    assert set(kept(record)) == {"link", "inside"}
    assert sorted(p.name for p in Path(outside).iterdir()) == sorted(FILES)


def test_the_root_may_be_an_output_itself_and_what_lies_beside_it_stays(on_disk: Place) -> None:
    on_disk.merge("recorded")
    on_disk.merge("forgotten", recorded=False, seed=1)
    on_disk.merge("forgotten-2", recorded=False, seed=2)
    done = lego_ray.collect_garbage(on_disk.catalog, on_disk.uri("forgotten"), delete=True, **NOW)
    assert [each["output"] for each in done["outputs"]] == [on_disk.uri("forgotten")]
    contents = on_disk.contents()
    assert under(contents, "forgotten") == []
    assert under(contents, "forgotten-2") == under(contents, "recorded") == sorted(FILES)


def test_a_collection_that_is_cut_short_is_finished_by_the_next(
    on_disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.merge("recorded")
    on_disk.merge("forgotten", recorded=False, seed=1)
    real = type(on_disk.store).delete
    deleted: list[str] = []

    def crashing(store: Any, key: str) -> None:
        if len(deleted) == 2:
            raise KeyboardInterrupt
        deleted.append(key)
        real(store, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(on_disk.store), "delete", crashing)
        with pytest.raises(KeyboardInterrupt):
            collect(on_disk, delete=True)
    assert deleted[0] == "forgotten/adapter_config.json", "so that it is no adapter any more"
    assert f"forgotten/{MANIFEST}" in on_disk.contents()
    assert found(collect(on_disk, delete=True)) == {"forgotten": "publish cut short"}
    assert under(on_disk.contents(), "forgotten") == []


@pytest.mark.parametrize("event", ["file added", "task saved", "recorded"])
def test_what_happens_between_looking_and_deleting_counts(
    on_disk: Place, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    on_disk.merge("recorded")
    on_disk.merge("forgotten", recorded=False, seed=1)
    real = find_leftovers

    def meanwhile(*args: Any) -> Any:
        if event == "file added":
            on_disk.store.create("forgotten/notes.txt", b"x")
        elif event == "task saved":
            on_disk.marked("forgotten")
        else:
            on_disk.merge("forgotten", seed=1)
        return real(*args)

    monkeypatch.setattr(collecting, "find_leftovers", meanwhile)
    record = collect(on_disk, delete=True)
    assert record["outputs"] == []
    assert set(kept(record)) == {"forgotten"}
    assert set(FILES) <= set(under(on_disk.contents(), "forgotten"))


def test_details_of_a_merge_never_published_go(
    on_disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.merge("recorded")
    with monkeypatch.context() as patch:
        patch.setattr("lego_ray.catalog.merges._next_version", crash)
        with pytest.raises(KeyboardInterrupt):
            on_disk.merge("crashed", seed=1)
    time.sleep(0.05)
    told = collect(on_disk)
    assert {(each["table"], each["rows"]) for each in told["details"]} == {
        ("merge_sites", 4),
        ("msus", 32),
    }
    assert told["rows_deleted"] == 0
    assert lego_ray.check_catalog(on_disk.catalog)["unpublished"] == 1
    assert collect(on_disk, delete=True)["rows_deleted"] == 36
    checked = lego_ray.check_catalog(on_disk.catalog, deep=True)
    assert (checked["ok"], checked["unpublished"]) == (True, 0)
    # Its output went too, and the same merge again is whole.
    assert on_disk.merge("crashed", seed=1)["status"] == "published"
    checked = lego_ray.check_catalog(on_disk.catalog, deep=True)
    assert (checked["ok"], checked["merges"]) == (True, 2)


def test_a_catalog_without_merges_would_make_all_garbage(on_disk: Place, tmp_path: Path) -> None:
    on_disk.merge("forgotten", recorded=False)
    lego_ray.scan(on_disk.zoo, catalog=tmp_path / "scanned")
    for catalog in (tmp_path / "nothing", tmp_path / "scanned"):
        with pytest.raises(CatalogNotFound):
            lego_ray.collect_garbage(catalog, on_disk.root, delete=True, **NOW)
    assert under(on_disk.contents(), "forgotten") == sorted(FILES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"older_than": "1h"}, "--older-than"),
        ({"older_than": "soon", "force": True}, "--older-than"),
        ({"root": "hf://org/name"}, "cannot be written"),
    ],
)
def test_bad_input_is_refused(on_disk: Place, options: dict[str, Any], says: str) -> None:
    on_disk.merge("recorded")
    given = {"root": on_disk.root, "delete": True, **options}
    with pytest.raises(InvalidOption, match=says):
        lego_ray.collect_garbage(on_disk.catalog, **given)
    with pytest.raises(ObjectNotFound):
        lego_ray.collect_garbage(on_disk.catalog, on_disk.uri("nothing"))


def test_the_record_is_plain_json(on_disk: Place) -> None:
    on_disk.merge("recorded")
    on_disk.merge("forgotten", recorded=False, seed=1)
    record = collect(on_disk)
    assert json.loads(json.dumps(record)) == record
    [output] = record["outputs"]
    assert output["name"] == "forgotten"
    assert len(output["merge_id"]) == 64
