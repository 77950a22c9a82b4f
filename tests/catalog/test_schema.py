"""The columns other tools rely on, to the letter."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from lego_ray.catalog.schema import SCHEMA_VERSION, TABLES, describe

PROMISED = {
    "adapters": "adapter_id uri revision base_model format rank_min rank_max n_sites n_params "
    "n_bytes dtype license tags status reason scanned_at",
    "merges": "merge_id name version parent_id method rank recipe seed adapter_ids output_uri "
    "content_hash status created_at seconds versions",
    "merge_sites": "merge_id site d_in d_out n_msus rank inertia iterations relative_error "
    "norm_ratio",
    "msus": "merge_id site adapter_id rank_index cluster distance weight",
    "groups": "grouping_id name group_name merge_id adapter_id uri status similarity nearest_group "
    "nearest_similarity silhouette found_at",
    "trials": "study_id name trial parameters status reason value score tasks seconds merge_id "
    "recorded_at",
}


def test_tables_are_those_promised() -> None:
    assert set(TABLES) == set(PROMISED)


@pytest.mark.parametrize("table", PROMISED)
def test_promised_columns_come_in_order(table: str) -> None:
    promised = PROMISED[table].split()
    assert [name for name in TABLES[table].schema.names if name in promised] == promised


@pytest.mark.parametrize("table", PROMISED)
def test_columns_are_snake_case_and_documented(table: str) -> None:
    for field in TABLES[table].schema:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", field.name)
        assert len(field.metadata[b"doc"]) > 5
        assert b"|" not in field.metadata[b"doc"], "it would break a Markdown table"
        assert field.metadata[b"comment"] == field.metadata[b"doc"]


def test_times_are_utc_microseconds_and_maps_are_of_text() -> None:
    fields = [field for spec in TABLES.values() for field in spec.schema]
    for field in fields:
        if field.name.endswith("_at"):
            assert field.type == pa.timestamp("us", tz="UTC")
        if field.name in ("tags", "versions"):
            assert field.type == pa.map_(pa.string(), pa.string())


def test_describe_names_every_column_once_a_table() -> None:
    text = describe()
    assert f"version {SCHEMA_VERSION}" in text
    for spec in TABLES.values():
        section = text.split(f"#### `{spec.name}`")[1].split("####")[0]
        for column in spec.columns:
            assert section.count(f"\n| `{column.name}` |") == 1
            assert column.doc in section
