"""What is written of a table can be told from what is damaged, and nothing in it is passed over."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.damage import Damage, damaged_files
from lego_ray.catalog.groups import record_groups
from lego_ray.catalog.merges import append_merge, make_current
from lego_ray.catalog.query import sql
from lego_ray.catalog.rows import conform
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.trials import record_trials
from lego_ray.catalog.upkeep.compact import compact
from lego_ray.errors import CatalogError, QueryError
from tests.catalog.sample import adapter, details, group, merge, msu, refused, trial

LONG = "/zoo/" + "é" * 100
# Bytes between the flipped bits of a file; prime, so that all kinds of places come up.
STEP = 127


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A file in each table."""
    catalog = Catalog(str(tmp_path / "catalog"))
    record_adapters(catalog, [adapter(), refused(), adapter(uri=LONG, adapter_id="b" * 64)])
    append_merge(catalog, merge(), *details())
    record_groups(catalog, [group(merge_id="m" * 64)])
    record_trials(catalog, "s" * 64, [trial()])
    return catalog


def only_file(catalog: Catalog, table: str) -> Path:
    [path] = Path(catalog.table_uri(table)).glob("*.parquet")
    return path


def crcs(path: Path) -> bool:
    """Whether each page has a checksum: without one, the reader finds nothing wrong with any."""
    data = bytearray(path.read_bytes())
    place = pq.read_metadata(path).row_group(0).column(0)
    start = place.dictionary_page_offset or place.data_page_offset
    data[start + place.total_compressed_size - 1] ^= 1
    try:
        pq.ParquetFile(pa.py_buffer(bytes(data)), page_checksum_verification=True).read()
    except OSError as error:
        return "checksum" in str(error)
    return False


@pytest.mark.parametrize("step", ["append", "overwrite", "compact", "renumber"])
def test_all_that_is_written_has_checksums(catalog: Catalog, step: str) -> None:
    before = set(Path(catalog.uri).rglob("part-*.parquet"))
    if step == "overwrite":
        record_adapters(catalog, [adapter(license="gpl")])
    elif step == "compact":
        record_adapters(catalog, [adapter(uri="/zoo/other")])
        compact(catalog, "adapters")
    elif step == "renumber":
        append_merge(catalog, merge(merge_id="n" * 64, version=None), *details("n" * 64))
        make_current(catalog, "m" * 64)
    written = set(Path(catalog.uri).rglob("part-*.parquet")) - (
        set() if step == "append" else before
    )
    assert written
    assert all(crcs(path) for path in written)
    assert damaged_files(catalog) == []


@pytest.mark.parametrize("table", TABLES)
def test_a_flipped_bit_is_an_error_or_nothing_and_the_file_is_named(
    catalog: Catalog, table: str
) -> None:
    """Everywhere in the file, footer and pages' headers included."""
    path = only_file(catalog, table)
    good = path.read_bytes()
    first = TABLES[table].schema.names[0]
    before = catalog.read(table)
    wanted = pc.field(first) == before[first][0].as_py()
    found = catalog.read(table, where=wanted)
    errors = 0
    for place in range(0, len(good), STEP):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert catalog.read(table).equals(before)
            assert catalog.read(table, where=wanted).equals(found)
        except CatalogError:
            errors += 1
        [damage] = damaged_files(catalog)
        assert (damage.table, damage.file) == (table, path.name)
        assert "sha256" in damage.problem
    assert errors > len(good) / STEP / 2
    path.write_bytes(good)
    assert damaged_files(catalog) == []


def test_a_query_names_the_damaged_file(catalog: Catalog) -> None:
    path = only_file(catalog, "msus")
    data = bytearray(path.read_bytes())
    data[data.index(b"PAR1") + 60] ^= 1
    path.write_bytes(data)
    with pytest.raises(CatalogError, match=path.name):
        sql(catalog, "SELECT * FROM msus")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CatalogError, match=path.name):
        sql(catalog, "SELECT * FROM msus")


def test_a_query_with_the_words_of_damage_is_a_querys_error(catalog: Catalog) -> None:
    with pytest.raises(QueryError):
        sql(catalog, "SELECT error('CRC checksum verification failed')")


def test_a_file_that_is_gone_is_named(catalog: Catalog) -> None:
    path = only_file(catalog, "merges")
    path.unlink()
    assert damaged_files(catalog) == [Damage("merges", path.name, "it is missing")]
    with pytest.raises(CatalogError, match="--deep"):
        catalog.read("merges")


def test_a_damaged_log_is_named(catalog: Catalog) -> None:
    log = Path(catalog.table_uri("merges"), "_delta_log", f"{1:020}.json")
    log.write_bytes(log.read_bytes()[:-30])
    [damage] = damaged_files(catalog)
    assert damage.table == "merges"
    assert damage.file == f"_delta_log/{log.name}"


def old_append(catalog: Catalog, table: str, rows: list[dict[str, Any]]) -> None:
    """As earlier releases wrote: by the Delta library, without checksums."""
    write_deltalake(catalog.open_or_create(table), conform(table, rows), mode="append")


def test_files_of_earlier_releases_are_read_and_looked_at(catalog: Catalog) -> None:
    before = set(Path(catalog.table_uri("msus")).glob("*.parquet"))
    old_append(catalog, "msus", [msu(rank_index=n, cluster=7) for n in range(50)])
    assert catalog.read("msus").num_rows == 55
    assert damaged_files(catalog) == []
    [path] = set(Path(catalog.table_uri("msus")).glob("*.parquet")) - before
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    [damage] = damaged_files(catalog)
    assert damage.problem == f"it has {len(good) - 1} bytes, the log says {len(good)}"
    path.write_bytes(bytes(len(good)))
    [damage] = damaged_files(catalog)
    assert damage.problem.startswith("it cannot be read")
    path.write_bytes(good)
    compact(catalog, "msus")
    assert catalog.read("msus").num_rows == 55


def test_statistics_are_those_of_the_delta_library(catalog: Catalog, tmp_path: Path) -> None:
    theirs = Catalog(str(tmp_path / "theirs"))
    rows = [adapter(), adapter(uri="/zoo/z", rank_min=None, adapter_id="0" * 64), refused()]
    old_append(theirs, "adapters", rows)
    ours = Catalog(str(tmp_path / "ours"))
    ours.append("adapters", rows)

    def stats(catalog: Catalog) -> Any:
        log = Path(catalog.table_uri("adapters"), "_delta_log", f"{1:020}.json")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        [add] = [line["add"] for line in lines if "add" in line]
        return json.loads(add["stats"])

    assert stats(ours) == stats(theirs)


@pytest.mark.parametrize("by", ["us", "the library"])
def test_no_row_is_passed_over_for_want_of_bounds(tmp_path: Path, by: str) -> None:
    """Rows of a column with an infinity, a NaN or a long text are found by any condition on it."""
    catalog = Catalog(str(tmp_path))
    append_merge(catalog, merge(), [], [])
    for distances in ([math.inf, 1.0], [-math.inf], [math.nan], [None, 2.0], [None]):
        rows = [msu(distance=value, site=LONG) for value in distances]
        if by == "us":
            catalog.append("msus", rows)
        else:
            old_append(catalog, "msus", rows)
    stored = catalog.read("msus")
    for where in (
        pc.field("distance") > 0,
        pc.field("distance") == math.inf,
        pc.field("distance") < 0,
        pc.is_nan(pc.field("distance")),
        pc.field("distance").is_null(),
        pc.field("site") == LONG,
        pc.field("site") > "/zoo/é",
    ):
        found = catalog.read("msus", where=where)
        assert found.num_rows == stored.filter(where).num_rows > 0, str(where)


def test_a_filter_leaves_files_unopened(catalog: Catalog) -> None:
    append_merge(catalog, merge(merge_id="n" * 64, version=None), *details("n" * 64))
    [other] = [
        path
        for path in Path(catalog.table_uri("msus")).glob("*.parquet")
        if "n" * 64 in pq.read_table(path)["merge_id"].to_pylist()
    ]
    other.unlink()
    assert catalog.read("msus", where=pc.field("merge_id") == "m" * 64).num_rows == 5
