"""A catalog as the release with schema version 1 made it, written out: nothing here is lego-ray's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

_TIME = pa.timestamp("us", tz="UTC")
_MAP = pa.map_(pa.string(), pa.string())

# (name, type, nullable), in order.
COLUMNS: dict[str, list[tuple[str, pa.DataType, bool]]] = {
    "adapters": [
        ("adapter_id", pa.string(), True),
        ("uri", pa.string(), False),
        ("revision", pa.string(), True),
        ("base_model", pa.string(), True),
        ("format", pa.string(), True),
        ("rank_min", pa.int32(), True),
        ("rank_max", pa.int32(), True),
        ("n_sites", pa.int64(), True),
        ("n_params", pa.int64(), True),
        ("n_bytes", pa.int64(), True),
        ("dtype", pa.string(), True),
        ("license", pa.string(), True),
        ("tags", _MAP, True),
        ("status", pa.string(), False),
        ("reason", pa.string(), True),
        ("scanned_at", _TIME, False),
    ],
    "merges": [
        ("merge_id", pa.string(), False),
        ("name", pa.string(), False),
        ("version", pa.int64(), False),
        ("parent_id", pa.string(), True),
        ("method", pa.string(), False),
        ("rank", pa.int64(), False),
        ("recipe", pa.string(), False),
        ("seed", pa.int64(), False),
        ("adapter_ids", pa.list_(pa.string()), False),
        ("output_uri", pa.string(), False),
        ("content_hash", pa.string(), False),
        ("status", pa.string(), False),
        ("created_at", _TIME, False),
        ("seconds", pa.float64(), False),
        ("versions", _MAP, False),
    ],
    "merge_sites": [
        ("merge_id", pa.string(), False),
        ("site", pa.string(), False),
        ("d_in", pa.int64(), False),
        ("d_out", pa.int64(), False),
        ("n_msus", pa.int64(), False),
        ("rank", pa.int64(), False),
        ("inertia", pa.float64(), True),
        ("iterations", pa.int64(), True),
        ("relative_error", pa.float64(), True),
        ("norm_ratio", pa.float64(), True),
    ],
    "msus": [
        ("merge_id", pa.string(), False),
        ("site", pa.string(), False),
        ("adapter_id", pa.string(), False),
        ("rank_index", pa.int32(), False),
        ("cluster", pa.int32(), False),
        ("distance", pa.float64(), True),
        ("weight", pa.float64(), True),
    ],
}


def write_table(
    root: str | Path,
    table: str,
    rows: list[dict[str, Any]],
    transactions: list[tuple[str, int]],
    options: dict[str, str] | None = None,
) -> None:
    """Makes a table if there is none and appends rows as version 1 did, one commit each call."""
    fields = [pa.field(name, kind, null) for name, kind, null in COLUMNS[table]]
    schema = pa.schema(fields)
    uri = f"{root}/{table}"
    DeltaTable.create(
        uri,
        schema,
        mode="ignore",
        name=table,
        configuration={"lego_ray.schema_version": "1", "delta.checkpointInterval": "20"},
        storage_options=options,
        raise_if_key_not_exists=False,
    )
    plain = [
        {
            name: list(row[name].items()) if isinstance(row.get(name), dict) else row.get(name)
            for name in schema.names
        }
        for row in rows
    ]
    write_deltalake(
        DeltaTable(uri, storage_options=options),
        pa.Table.from_pylist(plain, schema=schema),
        mode="append",
        commit_properties=CommitProperties(
            app_transactions=[Transaction(*pair) for pair in transactions]
        ),
    )
