"""Publishing to a directory and to S3: create-only, complete or not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import (
    InvalidOption,
    LegoRayError,
    MalformedAdapter,
    ObjectNotFound,
    OutputExists,
    StorageError,
    StoreUnavailable,
    UnsupportedUri,
    VerificationFailed,
)
from lego_ray.storage import open_store
from tests.merging.runs import fails_after
from tests.zoo import CONFIG, WEIGHTS, files_of, write_adapter, write_zoo

MANIFEST = "lego_ray_manifest.json"
FILES = sorted(["README.md", CONFIG, WEIGHTS, MANIFEST])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo, and two merges of it."""
    here = tmp_path_factory.mktemp("delivery")
    zoo = write_zoo(here / "zoo", 3)
    for name, seed in (("first", 0), ("other", 1)):
        lego_ray.merge(zoo, rank=4, output=here / name, runner="inline", n_init=1, seed=seed)
    return here


def contents(root: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in files_of(root).items()}


def copy_of(place: Path, to: Path) -> Path:
    lego_ray.publish(place / "first", to=to)
    return to


def test_a_copy_is_the_merge_and_nothing_else(place: Path, tmp_path: Path) -> None:
    (place / "first" / ".lego-ray").mkdir(exist_ok=True)
    (place / "first" / ".lego-ray" / "left.over").write_text("of a run that ended early")
    (place / "first" / "notes.txt").write_text("of no one's concern")
    record = lego_ray.publish(place / "first", to=tmp_path / "copy")
    assert sorted(contents(tmp_path / "copy")) == FILES
    for name, data in contents(tmp_path / "copy").items():
        assert data == (place / "first" / name).read_bytes()
    assert record["status"] == "published"
    assert (record["to"], record["url"], record["private"]) == (str(tmp_path / "copy"), None, None)
    assert record["bytes"] == sum(f["bytes"] for f in record["files"])
    verified = lego_ray.verify(tmp_path / "copy", sources=place / "zoo")
    assert verified["merge_id"] == record["merge_id"]


def test_the_same_again_writes_nothing_and_says_so(place: Path, tmp_path: Path) -> None:
    copy = copy_of(place, tmp_path / "copy")
    before = files_of(tmp_path)
    again = lego_ray.publish(place / "first", to=copy)
    assert (again["status"], again["bytes"]) == ("already published", 0)
    assert lego_ray.publish(copy, to=copy)["status"] == "already published"
    assert files_of(tmp_path) == before


def test_a_dry_run_writes_nothing_and_says_what_would_be(place: Path, tmp_path: Path) -> None:
    dry = lego_ray.publish(place / "first", to=tmp_path / "new" / "copy", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert dry["status"] == "would publish"
    real = lego_ray.publish(place / "first", to=tmp_path / "new" / "copy")
    same = dry.keys() - {"status", "dry_run"}
    assert {k: dry[k] for k in same} == {k: real[k] for k in same}
    again = lego_ray.publish(place / "first", to=tmp_path / "new" / "copy", dry_run=True)
    assert again["status"] == "already published"


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_there_is_left_alone(dry_run: bool, place: Path, tmp_path: Path) -> None:
    copy_of(place, tmp_path / "merge")
    write_adapter(tmp_path / "adapter")
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / WEIGHTS).write_bytes(b"someone's work")
    changed = copy_of(place, tmp_path / "changed")
    config = (changed / CONFIG).read_bytes()
    (changed / CONFIG).write_bytes(b"x" + config[1:])
    (tmp_path / "run" / ".lego-ray").mkdir(parents=True)
    marker = {
        "checkpoint_version": 1,
        "plan": "0" * 64,
        "name": "m",
        "method": "lego",
        "rank": 4,
        "adapters": 2,
        "sites": 1,
        "started_at": "2026-01-01T00:00:00+00:00",
        "catalog": None,
    }
    (tmp_path / "run" / ".lego-ray" / "run.json").write_text(json.dumps(marker))
    before = files_of(tmp_path)
    for merged, to, says in (
        ("other", "merge", "another plan"),
        ("first", "adapter", "lego-ray did not write"),
        ("first", "stray", "already exists, with other bytes"),
        ("first", "changed", "adapter_config.json already exists"),
        ("first", "run", "unfinished run"),
    ):
        with pytest.raises(OutputExists, match=says) as caught:
            lego_ray.publish(place / merged, to=tmp_path / to, dry_run=dry_run)
        assert caught.value.exit_code == 2
        assert "--output" not in caught.value.hint
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("survived", range(len(FILES)))
def test_the_configuration_appears_last_whatever_write_fails(
    survived: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = fails_after(survived, monkeypatch)
    with pytest.raises(StoreUnavailable):
        lego_ray.publish(place / "first", to=tmp_path / "copy")
    monkeypatch.undo()
    assert sorted(contents(tmp_path / "copy")) == sorted(written)
    assert CONFIG not in written
    assert lego_ray.publish(place / "first", to=tmp_path / "copy")["status"] == "published"
    assert sorted(contents(tmp_path / "copy")) == FILES


@pytest.mark.parametrize(
    ("file", "missing"),
    [*((f, m) for f in (WEIGHTS, CONFIG) for m in (False, True)), ("README.md", True)],
)
def test_a_merge_that_is_not_whole_is_not_copied(
    file: str, missing: bool, place: Path, tmp_path: Path
) -> None:
    merged = copy_of(place, tmp_path / "merged")
    if missing:
        (merged / file).unlink()
    else:
        (merged / file).write_bytes(b"x" + (merged / file).read_bytes()[1:])
    with pytest.raises(VerificationFailed):
        lego_ray.publish(merged, to=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_what_is_no_merge_is_said_to_be_none(place: Path, tmp_path: Path) -> None:
    for where in (place / "zoo" / "a0", tmp_path / "nowhere"):
        with pytest.raises(ObjectNotFound, match=MANIFEST):
            lego_ray.publish(where, to=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "files",
    [
        [],
        {},
        {WEIGHTS: {"bytes": 1, "sha256": "0"}},
        {CONFIG: {}},
        {CONFIG: {"sha256": "0"}, MANIFEST: {"sha256": "0"}},
        {CONFIG: {"sha256": "0"}, "../evil": {"sha256": "0"}},
        {CONFIG: {"sha256": "0"}, "/evil": {"sha256": "0"}},
    ],
    ids=str,
)
def test_a_manifest_of_anyone_reaches_nothing_else(
    files: object, place: Path, tmp_path: Path
) -> None:
    merged = copy_of(place, tmp_path / "merged")
    manifest = json.loads((merged / MANIFEST).read_text())
    (merged / MANIFEST).write_text(json.dumps({**manifest, "files": files}))
    (tmp_path / "evil").write_text("outside")
    for verb in (lego_ray.verify, lambda m: lego_ray.publish(m, to=tmp_path / "copy")):
        with pytest.raises((MalformedAdapter, StorageError)):
            verb(merged)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "fields",
    [{"name": None}, {"merge_id": 1}, {"recipe": {}}, {"sources": [1]}, {"sources": [{}]}],
    ids=str,
)
def test_a_manifest_that_lacks_something_is_refused(
    fields: dict[str, object], place: Path, tmp_path: Path
) -> None:
    merged = copy_of(place, tmp_path / "merged")
    manifest = json.loads((merged / MANIFEST).read_text())
    (merged / MANIFEST).write_text(json.dumps({**manifest, **fields}))
    with pytest.raises(MalformedAdapter, match=MANIFEST):
        lego_ray.publish(merged, to=tmp_path / "copy")


@pytest.mark.parametrize("option", [{"public": True}, {"revision": "next"}, {"update": True}])
def test_options_of_the_hub_are_refused_elsewhere(
    option: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match="for the Hub") as caught:
        lego_ray.publish(place / "first", to=tmp_path / "copy", **option)
    assert caught.value.where == f"--{next(iter(option))}"
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("to", ["ftp://x/y", "hf://only-a-name", ""])
def test_places_that_are_none_are_refused(to: str, place: Path) -> None:
    with pytest.raises(UnsupportedUri):
        lego_ray.publish(place / "first", to=to)


def test_a_place_that_is_a_file_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(LegoRayError) as caught:
        lego_ray.publish(place / "first", to=tmp_path / "file")
    assert caught.value.exit_code == 2
    assert (tmp_path / "file").read_text() == "a file"


def test_it_needs_no_torch_and_no_ray() -> None:
    code = (
        "import sys, lego_ray; lego_ray.publish;"
        "print([m for m in ('torch', 'ray', 'huggingface_hub', 'boto3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.s3
def test_it_goes_to_s3_and_from_there(place: Path, tmp_path: Path, s3_bucket: str) -> None:
    to = f"s3://{s3_bucket}/merged/first"
    assert lego_ray.publish(place / "first", to=to, dry_run=True)["status"] == "would publish"
    assert list(open_store(to).list()) == []
    assert lego_ray.publish(place / "first", to=to)["status"] == "published"
    assert lego_ray.publish(place / "first", to=to)["status"] == "already published"
    with pytest.raises(OutputExists, match="another plan"):
        lego_ray.publish(place / "other", to=to)
    assert lego_ray.verify(to, sources=place / "zoo")["ok"]
    there = open_store(to)
    assert not [i.key for i in there.list() if bytes(place) in there.read(i.key)]
    assert lego_ray.publish(to, to=tmp_path / "back")["status"] == "published"
    assert contents(tmp_path / "back").keys() == set(FILES)
    assert (tmp_path / "back" / WEIGHTS).read_bytes() == (place / "first" / WEIGHTS).read_bytes()


@pytest.mark.s3
def test_what_an_earlier_release_copied_to_s3_is_left_as_it_is(place: Path, s3_bucket: str) -> None:
    """With the local paths that it wrote there."""
    to = f"s3://{s3_bucket}/merged/before"
    store = open_store(to)
    for name, data in contents(place / "first").items():
        store.create(name, data)
    assert lego_ray.publish(place / "first", to=to)["status"] == "already published"
