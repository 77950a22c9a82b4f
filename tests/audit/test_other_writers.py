"""Tables that other programs wrote into, in types of theirs, are read by every verb as they were."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction

import lego_ray
from lego_ray.catalog.opening import open_catalog
from lego_ray.errors import CatalogError
from tests.merging.merged_place import Place, fresh_place

TABLES = ("adapters", "merges", "merge_sites", "msus")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place = fresh_place(request, tmp_path)
    place.merge("clustered")
    return place


def answers(place: Place) -> dict[str, Any]:
    """What each verb that reads says, paths and times of the answers apart."""
    uri, catalog = place.catalog, lego_ray.catalog
    [merge_id] = catalog.list_merges(uri)["merge_id"].to_pylist()
    [adapter, _] = catalog.lineage(uri, "clustered")["adapter_id"].to_pylist()
    site = catalog.show(uri, "clustered").sites["site"][0].as_py()
    return {
        "check": lego_ray.check_catalog(uri)["problems"],
        "deep": lego_ray.check_catalog(uri, deep=True)["problems"],
        "repair": lego_ray.repair_catalog(uri)["repairs"],
        "list": catalog.list_merges(uri).to_pylist(),
        "show": catalog.show(uri, "clustered").sites.to_pylist(),
        "lineage": catalog.lineage(uri, "clustered").to_pylist(),
        "site": catalog.lineage(uri, "clustered", site=site).to_pylist(),
        "rank": catalog.lineage(uri, "clustered", site=site, rank=1).to_pylist(),
        "holders": catalog.merges_with(uri, adapter).to_pylist(),
        "log": catalog.log(uri, since="1d").to_pylist(),
        "diff": catalog.diff(uri, since="1d").to_pylist(),
        "gc": lego_ray.collect_garbage(uri, place.root)["details"],
        "sql": [
            catalog.sql(uri, query).to_pylist()
            for query in (
                f"SELECT sum(weight) FROM msus WHERE merge_id = '{merge_id}' AND cluster > 0",
                f"SELECT * FROM merge_sites WHERE site = '{site}' OR site LIKE '%x%'",
                "SELECT uri, tags, license FROM adapters WHERE adapter_id > '' ORDER BY uri",
                "SELECT name FROM merges WHERE created_at > TIMESTAMPTZ '2020-01-01 00:00:00+00'",
                "SELECT name FROM merges WHERE rank = 4 AND seconds >= 0 AND method IN ('lego', 'x')",
            )
        ],
    }


def updated(path: str, table: str) -> None:
    """What the plain Delta library's update leaves: `string_view`."""
    del table
    handle = DeltaTable(path)
    names = [field.name for field in handle.schema().fields if "string" in str(field.type)]
    text = next(name for name in names if name in ("adapter_id", "merge_id"))
    handle.update(updates={text: text}, predicate="true")


def by_polars(path: str, table: str) -> None:
    """Tables without maps, which polars has none of, rewritten by it."""
    import polars

    if table in ("merge_sites", "msus"):
        polars.read_delta(path).write_delta(path, mode="overwrite")


def raw(types: Callable[[pa.Field], pa.DataType], **options: Any) -> Callable[[str, str], None]:
    """A file of other Arrow types in place of all files, as a writer of Parquet may leave it."""

    def rewritten(path: str, table: str) -> None:
        del table
        handle = DeltaTable(path)
        rows = handle.to_pyarrow_table()
        data = pa.table(
            [rows[field.name].cast(types(field)) for field in rows.schema], rows.column_names
        )
        handle.delete()
        name = f"part-{uuid.uuid4()}.parquet"
        pq.write_table(data, f"{path}/{name}", **options)
        size = Path(path, name).stat().st_size
        added = AddAction(name, size, {}, 0, True, f'{{"numRecords": {rows.num_rows}}}')
        handle = DeltaTable(path)
        handle.create_write_transaction([added], "append", handle.schema())

    return rewritten


def large(field: pa.Field) -> pa.DataType:
    if pa.types.is_string(field.type) or pa.types.is_string_view(field.type):
        return pa.large_string()
    if pa.types.is_list(field.type) and not pa.types.is_nested(field.type.value_type):
        return pa.large_list(pa.large_string())
    return pa.timestamp("ns", "UTC") if pa.types.is_timestamp(field.type) else field.type


def encoded(field: pa.Field) -> pa.DataType:
    if pa.types.is_string(field.type) or pa.types.is_string_view(field.type):
        return pa.dictionary(pa.int32(), pa.string())
    return pa.int32() if pa.types.is_int64(field.type) and field.name != "n_bytes" else field.type


def as_given(field: pa.Field) -> pa.DataType:
    return field.type


WRITERS = {
    "updated": updated,
    "polars": by_polars,
    "large": raw(large),
    "dictionaries and int32": raw(encoded),
    "int96": raw(as_given, use_deprecated_int96_timestamps=True, store_schema=False),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_verb_answers_the_same(writer: str, place: Place) -> None:
    before = answers(place)
    for table in TABLES:
        WRITERS[writer](f"{place.catalog}/{table}", table)
    assert answers(place) == before
    # The writing ones too.
    lego_ray.catalog.compact(place.catalog)
    lego_ray.repair_catalog(place.catalog, apply=True)
    lego_ray.catalog.vacuum(place.catalog)
    lego_ray.scan(place.zoo, catalog=place.catalog)
    place.merge("second", rank=2)
    assert lego_ray.check_catalog(place.catalog, deep=True)["problems"] == []
    assert lego_ray.catalog.list_merges(place.catalog).num_rows == 2


def narrowed(schema: pa.Schema) -> pa.Schema:
    """Types in a table's log after another program wrote the table again, with its own column types."""

    def kind(field: pa.Field) -> pa.DataType:
        if pa.types.is_timestamp(field.type):
            return pa.timestamp("us")
        if pa.types.is_int64(field.type) and field.name != "seed":
            return pa.int32()
        if pa.types.is_int32(field.type):
            return pa.int64()
        return field.type

    return pa.schema([(field.name, kind(field)) for field in schema])


def test_columns_of_narrower_types_are_read_and_not_written_to(place: Place) -> None:
    before = answers(place)
    for table in TABLES:
        path = f"{place.catalog}/{table}"
        rows = open_catalog(place.catalog).whole(table).to_table()
        data = rows.cast(narrowed(rows.schema))
        write_deltalake(path, data, mode="overwrite", schema_mode="overwrite")
    assert answers(place) == before
    with pytest.raises(CatalogError, match="another program wrote this column as") as caught:
        place.merge("second", rank=2)
    assert "another catalog" in str(caught.value)


def test_a_type_that_holds_no_such_values_is_refused(place: Place) -> None:
    path = f"{place.catalog}/merge_sites"
    rows = DeltaTable(path).to_pyarrow_table()
    index = rows.schema.get_field_index("rank")
    text = rows.set_column(index, "rank", rows["rank"].cast(pa.string()))
    write_deltalake(path, text, mode="overwrite", schema_mode="overwrite")
    with pytest.raises(CatalogError, match=r"merge_sites\.rank: got string; expected int64"):
        lego_ray.catalog.show(place.catalog, "clustered")
