"""A refresh that has nothing to do: a few listings, and the answer that a full look would give."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import lego_ray
from lego_ray.storage import open_store
from tests.catalog.stores import STORES
from tests.ceph_gateway import S3Server
from tests.s3_fronts import Proxy, http_proxy
from tests.storage.fake_hub import FakeRepo, used_hub
from tests.zoo import CONFIG, WEIGHTS, mixed_zoo, wide_site, write_adapter, write_zoo

RECIPE = """
sources: ["{zoo}"]
catalog: "{place}/catalog"
output: "{place}/library"
defaults: {{rank: 2, options: {{n_init: 1}}}}
merges:
{merges}
"""
MERGES = "  - {name: m}\n"
# Of a refresh with nothing to do, those for more than a thousand files apart.
MOST_REQUESTS = 20
# How long a call took, and what it read, is not what it found.
COSTS = ("seconds", "bytes_read")


def recipe(tmp_path: Path, zoo: str | Path, place: str | Path, merges: str = MERGES) -> Path:
    path = tmp_path / "library.yaml"
    path.write_text(RECIPE.format(zoo=zoo, place=place, merges=merges))
    return path


def refresh(path: Path, **options: Any) -> dict[str, Any]:
    return dict(lego_ray.refresh(path, runner="inline", **options))


def kept(place: str | Path) -> list[str]:
    """The keys of what refreshes kept below a library."""
    return [i.key for i in open_store(f"{place}/library").list(".lego-ray/unchanged/")]


def forget(place: str | Path) -> None:
    """Deletes what refreshes kept, so that the next one looks at everything."""
    store = open_store(f"{place}/library")
    for key in kept(place):
        store.delete(key)


def found(record: dict[str, Any]) -> str:
    """A record as `--json` prints it, without what it cost."""
    merges = [{k: v for k, v in m.items() if k not in COSTS} for m in record["merges"]]
    told = {k: v for k, v in record.items() if k not in COSTS}
    return json.dumps({**told, "merges": merges})


@pytest.fixture(params=STORES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a zoo and its library are: a folder on disk, or a bucket."""
    if request.param == "file":
        return str(tmp_path / "home")
    return f"s3://{request.getfixturevalue('s3_bucket')}/home"


def put(folder: Path, place: str) -> None:
    """Copies a folder to a place, over what is there."""
    store = open_store(place)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = path.relative_to(folder).as_posix()
            store.delete(key)
            store.create(key, path.read_bytes())


@pytest.fixture
def library(home: str, tmp_path: Path) -> Path:
    """A library that was refreshed once."""
    put(mixed_zoo(tmp_path / "made"), f"{home}/zoo")
    path = recipe(tmp_path, f"{home}/zoo", home)
    assert refresh(path)["status"] == "refreshed"
    return path


def test_the_answer_is_that_of_a_full_look(library: Path, home: str) -> None:
    quick = refresh(library)
    assert (quick["status"], quick["bytes_read"]) == ("unchanged", 0)
    forget(home)
    full = refresh(library)
    assert full["bytes_read"] > 0
    assert found(quick) == found(full)
    assert list(quick) == list(full)
    assert found(refresh(library)) == found(full)
    assert len(kept(home)) == 1


def test_of_the_same_size_other_bytes_are_found(library: Path, home: str, tmp_path: Path) -> None:
    store, key = open_store(f"{home}/zoo"), f"plain/{WEIGHTS}"
    data = bytearray(store.read(key))
    data[-1] ^= 1
    store.delete(key)
    store.create(key, bytes(data))
    record = refresh(library)
    assert (record["status"], record["new"]) == ("refreshed", 1)
    assert refresh(library)["bytes_read"] == 0


def test_on_disk_also_where_size_and_time_are_kept(tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    path = recipe(tmp_path, zoo, tmp_path)
    refresh(path)
    file = zoo / "plain" / WEIGHTS
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert refresh(path)["new"] == 1


@pytest.mark.parametrize(
    "change",
    ["gone", "new", "config", "beside", "output", "catalog"],
)
def test_whatever_moves_is_looked_at(library: Path, home: str, tmp_path: Path, change: str) -> None:
    zoo, output = open_store(f"{home}/zoo"), open_store(f"{home}/library")
    statuses = {
        "output": "refreshed",
        "gone": "refreshed",
        "new": "refreshed",
        "config": "refreshed",
    }
    if change == "gone":
        for info in list(zoo.list("plain/")):
            zoo.delete(info.key)
    elif change == "new":
        put(write_adapter(tmp_path / "new", seed=77), f"{home}/zoo/new")
    elif change == "config":
        fields = json.loads(zoo.read(f"plain/{CONFIG}"))
        zoo.delete(f"plain/{CONFIG}")
        zoo.create(f"plain/{CONFIG}", json.dumps({**fields, "lora_alpha": 3}).encode())
    elif change == "beside":
        zoo.create("plain/value_head.safetensors", b"")
    elif change == "output":
        for info in list(output.list("m/")):
            output.delete(info.key)
    else:
        lego_ray.scan(write_zoo(tmp_path / "more", 1), catalog=f"{home}/catalog")
    first = refresh(library)
    assert first["bytes_read"] > 0
    assert first["status"] == statuses.get(change, "unchanged")
    forget(home)
    assert found(refresh(library)) == found(refresh(library))


def test_what_cannot_matter_is_not_looked_at(library: Path, home: str) -> None:
    open_store(f"{home}/zoo").create("plain/train.log", b"step 1")
    assert refresh(library)["bytes_read"] == 0


@pytest.mark.parametrize("what", ["merges", "memory_budget", "strict"])
def test_another_question_has_no_kept_answer(tmp_path: Path, what: str) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    refresh(recipe(tmp_path, zoo, tmp_path))
    options: dict[str, Any] = {"memory_budget": "3GiB"} if what == "memory_budget" else {}
    merges = MERGES + "  - {name: few, adapters: [plain, rslora]}\n" if what == "merges" else MERGES
    record = refresh(recipe(tmp_path, zoo, tmp_path, merges), strict=what == "strict", **options)
    assert record["bytes_read"] > 0


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _of_other_adapters(data: bytes) -> bytes:
    return data.replace(b'"adapters": 5', b'"adapters": 6')


def _of_another_release(data: bytes) -> bytes:
    return data.replace(b'"version": 1', b'"version": 2', 1)


def _deep(data: bytes) -> bytes:
    return b"[" * 100_000


@pytest.mark.parametrize("damage", [_cut, _of_other_adapters, _of_another_release, _deep])
def test_a_damaged_one_is_not_used_and_is_replaced(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recipe(tmp_path, mixed_zoo(tmp_path / "zoo"), tmp_path)
    refresh(path)
    whole = refresh(path)
    [key] = kept(tmp_path)
    file = tmp_path / "library" / key
    damaged = damage(file.read_bytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    with caplog.at_level("WARNING", "lego_ray"):
        record = refresh(path)
    assert "kept record not used" in caplog.text
    assert record["bytes_read"] > 0
    assert found(record) == found(whole)
    again = refresh(path)
    assert (again["bytes_read"], found(again)) == (0, found(whole))


def test_one_of_another_library_is_not_used(tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    for name in ("one", "other"):
        refresh(recipe(tmp_path, zoo, tmp_path / name))
    [mine], [other] = kept(tmp_path / "one"), kept(tmp_path / "other")
    shutil.copy(tmp_path / "other/library" / other, tmp_path / "one/library" / mine)
    assert refresh(recipe(tmp_path, zoo, tmp_path / "one"))["bytes_read"] > 0


def test_a_library_that_cannot_be_written_is_refreshed_without(tmp_path: Path) -> None:
    path = recipe(tmp_path, mixed_zoo(tmp_path / "zoo"), tmp_path)
    first = refresh(path)
    shutil.rmtree(tmp_path / "library/.lego-ray")
    (tmp_path / "library/.lego-ray").write_text("in the way")
    record = refresh(path)
    assert record["status"] == "unchanged"
    assert [m["merge_id"] for m in record["merges"]] == [m["merge_id"] for m in first["merges"]]


def test_groups_are_not_measured_again(tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    path = recipe(tmp_path, zoo, tmp_path, "  - {name: g, groups: 2}\n")
    refresh(path)
    quick = refresh(path)
    assert quick["bytes_read"] == 0
    forget(tmp_path)
    assert found(refresh(path)) == found(quick)


def test_a_condition_on_the_time_is_decided_each_time(tmp_path: Path) -> None:
    merges = "  - {name: m, where: scanned_at <= now()}\n"
    path = recipe(tmp_path, mixed_zoo(tmp_path / "zoo"), tmp_path, merges)
    refresh(path)
    assert refresh(path)["bytes_read"] > 0
    assert kept(tmp_path) == []


def test_what_is_set_aside_is_reported_each_time(tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    (zoo / "plain/value_head.safetensors").touch()
    write_adapter(zoo / "ia3", peft_type="IA3")
    path = recipe(tmp_path, zoo, tmp_path)
    refresh(path)
    quick = refresh(path)
    assert quick["bytes_read"] == 0
    assert [each["adapter"] for each in quick["refused"]] == [str(zoo / "ia3")]
    forget(tmp_path)
    assert found(refresh(path)) == found(quick)


def test_two_at_once_find_the_same(library: Path, home: str) -> None:
    forget(home)
    with ThreadPoolExecutor(2) as threads:
        records = list(threads.map(lambda _: refresh(library), range(2)))
    assert {record["status"] for record in records} == {"unchanged"}
    assert found(records[0]) == found(records[1])
    assert len(kept(home)) == 1
    assert refresh(library)["bytes_read"] == 0


def test_of_repositories_on_the_hub_each_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with used_hub(monkeypatch) as hub:
        names = [f"org/lora-{number}" for number in range(3)]
        for seed, name in enumerate(names):
            folder = write_adapter(tmp_path / name, seed=seed)
            hub.repos[name] = FakeRepo()
            hub.repos[name].commit({p.name: p.read_bytes() for p in folder.iterdir()})
        path = tmp_path / "library.yaml"
        sources = '", "'.join(f"hf://{name}" for name in names)
        path.write_text(RECIPE.format(zoo=sources, place=tmp_path, merges=MERGES))
        assert refresh(path)["status"] == "refreshed"
        hub.requests.clear()
        assert refresh(path)["bytes_read"] == 0
        asked = [each for each in hub.requests if "/org/" in each]
        assert sorted(asked) == [f"GET /api/models/{name}?blobs=true" for name in names]
        hub.repos[names[0]].commit({**hub.repos[names[0]].files(), "notes.txt": b"new"})
        assert refresh(path)["bytes_read"] > 0  # another commit has another address


@pytest.fixture
def proxy(s3_env: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that counts, and alone leads to the server."""
    with http_proxy(s3_env.endpoint_url, tmp_path / "proxy.log") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost")
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        yield proxy


@pytest.mark.s3
def test_on_s3_it_makes_few_requests(
    proxy: Proxy, s3_bucket: str, s3_env: S3Server, tmp_path: Path
) -> None:
    # Files that a scan reads in three requests each, as those of real adapters.
    zoo = write_zoo(tmp_path / "zoo", 60, sites=wide_site(5000))
    s3_env.upload(zoo, s3_bucket, "zoo/")
    path = recipe(tmp_path, f"s3://{s3_bucket}/zoo", f"s3://{s3_bucket}")
    refresh(path)
    before = len(proxy.seen())
    assert refresh(path)["status"] == "unchanged"
    few = proxy.seen()[before:]
    assert len(few) <= MOST_REQUESTS, few
    assert not [each for each in few if "/zoo/" in each.path]


@pytest.mark.s3
def test_many_adapters_add_pages_of_a_listing(
    proxy: Proxy, s3_bucket: str, s3_env: S3Server, tmp_path: Path
) -> None:
    """Adapters that are refused by their configuration, which is all that is read of them.

    A server may send pages of a listing that are not full, so what is listed is counted, by its prefix.
    """
    asked = []
    write_zoo(tmp_path / "zoo", 2)
    path = recipe(tmp_path, f"s3://{s3_bucket}/zoo", f"s3://{s3_bucket}")
    for more in (0, 1200):
        for number in range(more):
            folder = tmp_path / "zoo" / f"empty-{number}"
            folder.mkdir()
            (folder / CONFIG).write_text('{"peft_type": "LORA"}')
        s3_env.upload(tmp_path / "zoo", s3_bucket, "zoo/")
        refresh(path)
        before = len(proxy.seen())
        assert refresh(path)["bytes_read"] == 0
        few = proxy.seen()[before:]
        assert len(few) <= MOST_REQUESTS, few
        queries = [parse_qs(urlsplit(each.path).query) for each in few]
        listed = {query["prefix"][0] for query in queries if "prefix" in query}
        asked.append((listed, sum("prefix" not in query for query in queries)))
    assert asked[0] == asked[1]
