"""Whatever names and links say, nothing is written, changed or deleted outside of what was asked for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import InvalidOption, LegoRayError, OutputExists, RecipeError
from tests.hostile.held import tree
from tests.zoo import write_zoo

OUTSIDE = (
    "../x",
    "../../x",
    "/etc/x",
    "a/../../x",
    "..",
    ".",
    "a/b",
    "a\0b",
    "a\nb",
    "x" * 300,
    "",
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_zoo(tmp_path / "zoo", 2)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter.txt").write_text("keep me")
    (tmp_path / "precious" / "old.checkpoint").write_text("keep me too")
    return tmp_path


def all_but(root: Path, *names: str) -> dict[str, Any]:
    """The tree without some of its top directories."""
    return {k: v for k, v in tree(root).items() if k.split("/")[0] not in names}


def merge(place: Path, **options: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"rank": 2, "output": place / "m", "runner": "inline", **options}
    return lego_ray.merge(place / "zoo", **asked)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_merge_of_any_name_stays_in_its_output(name: str, place: Path) -> None:
    before = all_but(place, "m", "catalog")
    refused = "/" in name or not name.isprintable()
    with pytest.raises(InvalidOption) if refused else contextlib.nullcontext():
        merge(place, name=name or None, catalog=place / "catalog")
    assert (place / "m").exists() is not refused
    assert all_but(place, "m", "catalog") == before


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_library_has_no_merge_of_a_name_that_is_a_path(name: str, place: Path) -> None:
    recipe = {"sources": [str(place / "zoo")], "output": str(place / "lib")}
    file = place / "lib.yaml"
    file.write_text(json.dumps({**recipe, "merges": [{"name": name, "rank": 2}]}))
    before = tree(place)
    with pytest.raises(RecipeError):
        lego_ray.build(file, runner="inline")
    assert tree(place) == before


@pytest.mark.parametrize("what", ["merge", "folder of a run", "folder of a plan"])
def test_links_in_an_output_are_not_gone_through(what: str, place: Path) -> None:
    lib = place / "lib"
    (lib / "a").mkdir(parents=True)
    if what == "merge":
        (lib / "a").rmdir()
        (lib / "a").symlink_to(place / "precious")
    elif what == "folder of a run":
        (lib / "a" / ".lego-ray").symlink_to(place / "precious")
    else:
        (lib / "a" / ".lego-ray").mkdir()
        plan = lego_ray.plan(place / "zoo", rank=2, name="a")
        (lib / "a" / ".lego-ray" / plan.work).symlink_to(place / "precious")
    file = place / "lib.yaml"
    recipe = {"sources": [str(place / "zoo")], "output": str(lib)}
    file.write_text(json.dumps({**recipe, "merges": [{"name": "a", "rank": 2}]}))
    before = tree(place / "precious")
    with pytest.raises(OutputExists, match="link"):
        lego_ray.build(file, runner="inline")
    assert tree(place / "precious") == before


def test_a_run_never_empties_what_its_folder_links_to(place: Path) -> None:
    (place / "m").mkdir()
    (place / "m" / ".lego-ray").symlink_to(place / "precious")
    before = tree(place)
    with pytest.raises(OutputExists, match="link"):
        merge(place)
    assert tree(place) == before


def test_files_linked_into_an_output_are_not_written_through(place: Path) -> None:
    (place / "m").mkdir()
    for name in ("README.md", "adapter_model.safetensors", "lego_ray_manifest.json"):
        (place / "m" / name).symlink_to(place / "precious" / "new.txt")
    before = tree(place / "precious")
    with pytest.raises(LegoRayError):
        merge(place)
    assert tree(place / "precious") == before


def test_garbage_collection_deletes_nothing_through_links(place: Path) -> None:
    merge(place, catalog=place / "catalog")
    (place / "root").mkdir()
    shutil.copytree(place / "m", place / "precious" / "m")
    manifest = place / "precious" / "m" / "lego_ray_manifest.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**said, "merge_id": "f" * 64}))
    (place / "root" / "m").symlink_to(place / "precious" / "m")
    (place / "root" / ".lego-ray").symlink_to(place / "precious")
    before = tree(place / "precious")
    lego_ray.collect_garbage(
        place / "catalog", place / "root", older_than="0h", force=True, delete=True
    )
    assert tree(place / "precious") == before


TAMPERED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a file outside": lambda m: {**m, "files": {**m["files"], "../../x": _entry()}},
    "an absolute file": lambda m: {**m, "files": {**m["files"], "/tmp/lego-ray-x": _entry()}},
    "a marker outside": lambda m: {**m, "marker": "../x", "files": {"../x": _entry()}},
    "weights outside": lambda m: {**m, "weights": "../../precious/letter.txt"},
    "a name that is a path": lambda m: {**m, "name": "../../x"},
    "a merge_id that is a path": lambda m: {**m, "merge_id": "../../x"},
    "a format": lambda m: {**m, "format": "../../x"},
    "sources elsewhere": lambda m: {**m, "sources": [{"adapter_id": "a", "uri": "/etc/passwd"}]},
    "a far version": lambda m: {**m, "version": 10**300},
}


def _entry() -> dict[str, Any]:
    return {"bytes": 0, "sha256": "0" * 64}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_manifest_of_others_leads_nowhere_else(
    change: Callable[[dict[str, Any]], dict[str, Any]], place: Path
) -> None:
    merge(place, catalog=place / "catalog", updatable=True)
    write_zoo(place / "more", 1, seed=9)
    manifest = place / "m" / "lego_ray_manifest.json"
    manifest.write_text(json.dumps(change(json.loads(manifest.read_text()))))
    before = all_but(place, "copy", "page.html", "m-v2", "next")
    calls: list[Callable[[], Any]] = [
        lambda: lego_ray.publish(place / "m", to=place / "copy"),
        lambda: lego_ray.report(place / "m", output=place / "page.html"),
        lambda: lego_ray.verify(place / "m", sources=place / "zoo"),
        lambda: lego_ray.status(place / "m"),
        lambda: lego_ray.update(
            place / "m", add=place / "more", output=place / "next", runner="inline"
        ),
        lambda: lego_ray.update(
            place / "m", refit=True, add=place / "more", output=place / "next", runner="inline"
        ),
        lambda: lego_ray.check_catalog(place / "catalog", deep=True),
        lambda: merge(place),
    ]
    for call in calls:
        with contextlib.suppress(LegoRayError):
            call()
    assert all_but(place, "copy", "page.html", "m-v2", "next") == before


@pytest.mark.parametrize("what", ["link", "pipe", "long", "below a file"])
def test_a_page_replaces_no_other_file(what: str, place: Path) -> None:
    merge(place)
    page = place / "page.html"
    if what == "link":
        page.symlink_to(place / "precious" / "letter.txt")
    elif what == "pipe":
        os.mkfifo(page)
    elif what == "long":
        page = place / ("x" * 300)
    else:
        page = place / "precious" / "letter.txt" / "page.html"
    before = tree(place / "precious")
    with pytest.raises(LegoRayError):
        lego_ray.report(place / "m", output=page)
    assert tree(place / "precious") == before
    assert [path.name for path in place.iterdir() if path.name.startswith(".lego-ray-page")] == []
