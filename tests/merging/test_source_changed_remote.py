"""Sources on S3 and on the Hub that change between scan and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import SourceChanged
from lego_ray.storage.open import open_store
from tests.merging.changing import ChangingRunner, alpha_changed, longer_header, replaced
from tests.storage.fake_hub import FakeHub, used_hub
from tests.zoo import CONFIG, WEIGHTS, weights_of, write_zoo


def merge(zoo: Any, output: Any, **options: Any) -> dict[str, Any]:
    given = {"rank": 4, "n_init": 2, "name": "m", "runner": "inline", **options}
    return lego_ray.merge(zoo, output=output, **given)


def upload(adapter: Path, uri: str) -> None:
    """Writes an adapter's files again where they differ."""
    store = open_store(uri)
    there = {info.key: store.read(info.key) for info in store.list()}
    for name in (CONFIG, WEIGHTS):
        data = (adapter / name).read_bytes()
        if there.get(name) != data:
            store.delete(name)
            store.create(name, data)


def delete(uri: str) -> None:
    store = open_store(uri)
    for name in (CONFIG, WEIGHTS):
        store.delete(name)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", 3)


@pytest.fixture
def remote(zoo: Path, s3_bucket: str) -> str:
    for adapter in zoo.iterdir():
        upload(adapter, f"s3://{s3_bucket}/zoo/{adapter.name}")
    return f"s3://{s3_bucket}/zoo"


def swapped(zoo: Path, remote: str, change: Callable[[Path], None]) -> Callable[[], None]:
    def swap() -> None:
        change(zoo / "a1")
        upload(zoo / "a1", f"{remote}/a1")

    return swap


@pytest.mark.s3
@pytest.mark.parametrize("change", [replaced, longer_header, alpha_changed])
@pytest.mark.parametrize("after", [0, 1])
def test_what_is_published_is_a_merge_of_the_objects_that_are_there_now(
    change: Callable[[Path], None], after: int, zoo: Path, remote: str, tmp_path: Path
) -> None:
    runner = ChangingRunner(swapped(zoo, remote, change), after=after)
    record = merge(remote, tmp_path / "m", runner=runner)
    assert any(f"{remote}/a1" in warning for warning in record["warnings"])
    merge(zoo, tmp_path / "fresh")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "fresh")


@pytest.mark.s3
def test_a_second_change_of_an_object_fails(zoo: Path, remote: str, tmp_path: Path) -> None:
    changes = [swapped(zoo, remote, replaced), swapped(zoo, remote, alpha_changed)]
    with pytest.raises(SourceChanged) as caught:
        merge(remote, tmp_path / "m", runner=ChangingRunner(*changes))
    assert caught.value.where == f"{remote}/a1/{CONFIG}"
    assert not (tmp_path / "m" / WEIGHTS).exists()


@pytest.mark.s3
def test_an_object_that_is_gone_leaves_its_adapter_out(
    zoo: Path, remote: str, tmp_path: Path
) -> None:
    runner = ChangingRunner(lambda: delete(f"{remote}/a1"))
    record = merge(remote, tmp_path / "m", runner=runner)
    assert [r["adapter"] for r in record["refused"]] == [f"{remote}/a1"]
    merge([zoo / "a0", zoo / "a2"], tmp_path / "fresh")
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "fresh")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch) as hub:
        yield hub


def files(zoo: Path) -> dict[str, bytes]:
    return {str(p.relative_to(zoo)): p.read_bytes() for p in zoo.rglob("*") if p.is_file()}


def test_a_branch_that_moves_on_while_it_is_merged_is_merged_as_it_was_scanned(
    hub: FakeHub, zoo: Path, tmp_path: Path
) -> None:
    commit = hub.commit(files(zoo))
    merge(zoo, tmp_path / "before")

    def push() -> None:
        longer_header(zoo / "a1")
        alpha_changed(zoo / "a1")
        hub.commit(files(zoo))

    record = merge("hf://org/zoo@main", tmp_path / "m", runner=ChangingRunner(push))
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "before")
    manifest = json.loads((tmp_path / "m" / "lego_ray_manifest.json").read_text())
    assert {source["revision"] for source in manifest["sources"]} == {commit}
    assert not any("changed" in warning for warning in record["warnings"])
