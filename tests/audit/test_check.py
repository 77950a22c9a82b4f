"""A sound catalog passes; each thing that can be wrong with one is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import lego_ray
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound
from lego_ray.storage.file import FileStore
from tests.catalog.version_one import COLUMNS
from tests.merging.merged_place import FILES, MANIFEST, STORES, Place, fresh_place
from tests.zoo import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(params=STORES)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return fresh_place(request, tmp_path)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place = fresh_place(request, tmp_path)
    place.merge("clustered")
    return place


def test_a_catalog_of_scans_alone_is_sound(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "a", seed=1)
    lego_ray.scan(tmp_path / "zoo", catalog=tmp_path / "catalog")
    for deep in (False, True):
        record = lego_ray.check_catalog(tmp_path / "catalog", deep=deep)
        assert (record["ok"], record["merges"], record["problems"]) == (True, 0, [])


def problems(place: Place, deep: bool = False) -> list[tuple[str, str]]:
    record = lego_ray.check_catalog(place.catalog, deep=deep)
    assert record["ok"] == (not record["problems"])
    return [(each["where"].rsplit("/", 1)[-1], each["problem"]) for each in record["problems"]]


def test_a_sound_catalog_passes_on_disk_and_on_s3(anywhere: Place) -> None:
    anywhere.merge("clustered")
    lego_ray.merge(
        anywhere.zoo,
        rank=4,
        output=anywhere.uri("mixed"),
        catalog=anywhere.catalog,
        method="svd",
        runner="inline",
    )
    for deep in (False, True):
        record = lego_ray.check_catalog(anywhere.catalog, deep=deep)
        assert record == {
            "catalog": anywhere.catalog,
            "ok": True,
            "merges": 2,
            "deep": deep,
            "problems": [],
            "unpublished": 0,
        }
    anywhere.store.delete(f"mixed/{CONFIG}")
    [problem] = lego_ray.check_catalog(anywhere.catalog)["problems"]
    assert (problem["name"], problem["where"]) == ("mixed", f"{anywhere.uri('mixed')}/{CONFIG}")


def test_an_output_that_is_gone(place: Place) -> None:
    shutil.rmtree(place.uri("clustered"))
    [(where, problem)] = problems(place)
    assert where == "clustered"
    assert problem.startswith("ObjectNotFound")


@pytest.mark.parametrize("table", ["merges", "msus", "adapters"])
def test_a_damaged_file_of_a_table_is_named(table: str, place: Place) -> None:
    file = next(Path(place.catalog, table).glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found = problems(place, deep=True)
    assert [where for where, _ in found] == [file.name]
    assert "sha256" in found[0][1]


CHECKED = sorted(set(FILES) - {MANIFEST, "README.md"})


def test_a_card_is_for_people_to_edit_and_its_loss_is_found(place: Place) -> None:
    place.rewrite("clustered/README.md", b"Ours.")
    assert problems(place) == problems(place, deep=True) == []
    place.store.delete("clustered/README.md")
    [(where, problem)] = problems(place)
    assert (where, problem.split(":")[0]) == ("README.md", "ObjectNotFound")


@pytest.mark.parametrize("name", CHECKED)
def test_a_file_that_is_gone_or_of_another_size(place: Place, name: str) -> None:
    place.rewrite(f"clustered/{name}", b"x")
    [(where, problem)] = problems(place)
    assert where == name
    assert "it has 1 bytes" in problem
    place.store.delete(f"clustered/{name}")
    [(where, problem)] = problems(place)
    assert (where, problem.split(":")[0]) == (name, "ObjectNotFound")


@pytest.mark.parametrize("name", CHECKED)
def test_other_bytes_of_the_same_size_are_found_by_reading_them(place: Place, name: str) -> None:
    data = bytearray(place.store.read(f"clustered/{name}"))
    data[-1] ^= 1
    place.rewrite(f"clustered/{name}", bytes(data))
    assert problems(place) == []
    [(where, problem)] = problems(place, deep=True)
    assert where == name
    assert "sha256" in problem


def spoil(manifest: dict[str, Any], change: str) -> None:
    if change == "merge":
        manifest["merge_id"] = "0" * 64
    elif change == "weights":
        manifest["files"][WEIGHTS]["sha256"] = "0" * 64
    elif change == "sources":
        manifest["sources"].pop()
    elif change == "sites":
        manifest["sites"] += 1
    elif change == "files":
        manifest["files"] = sorted(manifest["files"])
    elif change == "sizes":
        del manifest["files"][WEIGHTS]["bytes"]
    else:
        manifest["manifest_version"] = 99


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("merge", "another merge"),
        ("weights", "of the weights"),
        ("sources", "other sources"),
        ("sites", "says 5 sites"),
        ("version", "MalformedAdapter"),
        ("files", "MalformedAdapter"),
        ("sizes", "MalformedAdapter"),
    ],
)
def test_a_manifest_that_says_otherwise(place: Place, change: str, says: str) -> None:
    key = f"clustered/{MANIFEST}"
    manifest = json.loads(place.store.read(key))
    spoil(manifest, change)
    place.rewrite(key, json.dumps(manifest).encode())
    [(where, problem)] = problems(place)
    assert where == "clustered"
    assert says in problem


def change_rows(place: Place, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    from deltalake import write_deltalake

    handle = DeltaTable(f"{place.catalog}/{table}")
    write_deltalake(
        handle, change(Catalog(place.catalog).whole(table).to_table()), mode="overwrite"
    )


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array(values, table[name].type))


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("merge_sites", lambda t: t.slice(1), "it has 3 rows, 4 were recorded"),
        ("merge_sites", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "it has 5 rows"),
        ("msus", lambda t: t.slice(1), "it has 31 rows, 32 were recorded"),
        ("msus", lambda t: t.slice(0, 0), "it has 0 rows, 32 were recorded"),
        (
            "msus",
            lambda t: with_column(t, "cluster", [9] * 32),
            "has a cluster 9, but its rank is 4",
        ),
        ("msus", lambda t: with_column(t, "adapter_id", ["f" * 64] * 32), "names 1 adapters"),
        ("adapters", lambda t: t.slice(1), "1 of its adapters have no row"),
        ("merges", lambda t: pa.concat_tables([t, t]), "the merge has 2 rows"),
        (
            "merges",
            lambda t: with_column(t, "output_adapter_id", ["f" * 64]),
            "the catalog says ffffffffffff",
        ),
        ("merges", lambda t: with_column(t, "content_hash", ["f" * 64]), "the catalog ffff"),
    ],
)
def test_rows_that_are_lost_doubled_or_wrong(
    place: Place, table: str, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    change_rows(place, table, change)
    found = problems(place, deep=True)
    assert any(says in problem for _, problem in found), found


def test_rows_of_another_site_or_pool_are_named(place: Place) -> None:
    def move(table: pa.Table) -> pa.Table:
        sites = table["site"].to_pylist()
        return with_column(table, "site", ["layers.0.q_proj", *sites[1:-1], "layers.0.q_proj"])

    change_rows(place, "msus", move)
    assert {problem.split(" ")[0] for _, problem in problems(place)} >= {"layers.0.q_proj"}


def test_a_table_of_details_that_is_gone(place: Place) -> None:
    for table in ("msus", "merge_sites", "adapters"):
        shutil.rmtree(f"{place.catalog}/{table}")
    assert {where for where, _ in problems(place)} == {"msus", "merge_sites", "adapters"}


def test_merges_recorded_before_their_counts_were_are_held_to_what_they_have(place: Place) -> None:
    old = [name for name, _, _ in COLUMNS["merges"]]
    new = set(Catalog(place.catalog).read("merges").column_names) - set(old)

    def forget(table: pa.Table) -> pa.Table:
        for name in new:
            table = with_column(table, name, [None])
        return table

    change_rows(place, "merges", forget)
    handle = DeltaTable(f"{place.catalog}/merges")
    handle.vacuum(0, dry_run=False, enforce_retention_duration=False)  # as if they never had any
    assert problems(place, deep=True) == []
    change_rows(place, "msus", lambda t: t.slice(1))
    assert problems(place) != []


def test_every_problem_of_every_merge_is_listed(place: Place) -> None:
    place.merge("second", seed=1)
    for name in ("clustered", "second"):
        place.store.delete(f"{name}/README.md")
        place.store.delete(f"{name}/{CONFIG}")
    record = lego_ray.check_catalog(place.catalog)
    assert len(record["problems"]) == 4
    assert {each["name"] for each in record["problems"]} == {"clustered", "second"}
    assert json.loads(json.dumps(record)) == record


def test_a_catalog_without_merges_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound):
        lego_ray.check_catalog(tmp_path / "nothing")


def test_each_manifest_is_read_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.merge("second", rank=3)
    read, asked = FileStore.read, list[str]()

    def counted(self: FileStore, key: str, *more: Any) -> bytes:
        asked.append(key)
        return read(self, key, *more)

    monkeypatch.setattr(FileStore, "read", counted)
    assert lego_ray.check_catalog(place.catalog)["ok"]
    assert asked.count(MANIFEST) == 2  # the other is `clustered`
