"""A catalog that someone else wrote in: values or typed errors, nothing read from outside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lego_ray
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.query import answer
from lego_ray.catalog.schema import TABLES
from lego_ray.errors import CatalogError, LegoRayError
from tests.hostile.held import SECRET, check_error, tree
from tests.zoo import write_zoo

# What a name, a URI or a digest in a row may be.
WORDS = ["", "..", "../../x", "/etc/passwd", "\0", "a\nb", "\x1b[2J", "x" * 5000, "s3://x:y@b/k"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tampered")
    write_zoo(root / "zoo", 2)
    options: dict[str, Any] = {"rank": 2, "runner": "inline", "catalog": root / "catalog"}
    lego_ray.merge(root / "zoo", output=root / "m", **options)
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "it")
    return tmp_path / "it"


def log_of(place: Path, table: str = "merges") -> Path:
    return sorted((place / "catalog" / table / "_delta_log").glob("*.json"))[-1]


def data_of(place: Path, table: str = "merges") -> Path:
    return next((place / "catalog" / table).glob("*.parquet"))


def edit_log(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    log = log_of(place)
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        change(action)
    log.write_text("\n".join(map(json.dumps, actions)))


def reads(place: Path) -> list[Callable[[], Any]]:
    catalog = place / "catalog"
    return [
        lambda: lego_ray.catalog.list_merges(catalog),
        # What `sql` runs, but in this process: to start another for each would take most of the time.
        lambda: answer(open_catalog(catalog), "SELECT * FROM merges, merge_sites, adapters"),
        lambda: lego_ray.catalog.show(catalog, "m"),
        lambda: lego_ray.catalog.lineage(catalog, "m"),
        lambda: lego_ray.catalog.lineage(catalog, "m", rank=0),
        lambda: lego_ray.catalog.merges_with(catalog, "a0"),
        lambda: lego_ray.check_catalog(catalog, deep=True),
        lambda: lego_ray.collect_garbage(catalog, place / "m"),
        lambda: lego_ray.catalog.vacuum(catalog, dry_run=True),
    ]


def everything(place: Path) -> list[Callable[[], Any]]:
    catalog = place / "catalog"
    options: dict[str, Any] = {"runner": "inline", "catalog": catalog}
    return [
        *reads(place),
        lambda: lego_ray.report(place / "m", output=place / "page.html", catalog=catalog),
        lambda: lego_ray.merge(place / "zoo", rank=2, output=place / "m", **options),
        lambda: lego_ray.merge(place / "zoo", rank=3, output=place / "m3", **options),
        lambda: lego_ray.update("m", add=place / "zoo", output=place / "m4", **options),
        lambda: lego_ray.scan(place / "zoo", catalog=catalog),
        lambda: lego_ray.catalog.compact(catalog),
    ]


def held(place: Path, calls: Callable[[Path], list[Callable[[], Any]]]) -> list[LegoRayError]:
    """Makes calls; the errors that came of it."""
    errors = []
    for call in calls(place):
        try:
            call()
        except LegoRayError as error:
            check_error(error)
            errors.append(error)
    return errors


def rewrite(place: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Puts other rows into a table's file, its size in the log set right."""
    file = data_of(place, table)
    pq.write_table(change(pq.read_table(file)), file)
    log = log_of(place, table)
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"] |= {"size": file.stat().st_size, "stats": None}
    log.write_text("\n".join(map(json.dumps, actions)))


COLUMNS = ("name", "output_uri", "merge_id", "method", "recipe", "parent_id", "content_hash")


@pytest.mark.parametrize("first", range(len(WORDS)))
def test_any_text_in_a_row_of_merges(first: int, place: Path) -> None:
    def change(rows: pa.Table) -> pa.Table:
        for number, column in enumerate(COLUMNS):
            word = WORDS[(first + number) % len(WORDS)]
            at, field = rows.column_names.index(column), rows.schema.field(column)
            rows = rows.set_column(at, field, pa.array([word] * rows.num_rows, field.type))
        return rows

    before = tree(place.parent)
    rewrite(place, "merges", change)
    held(place, everything if first == 0 else reads)
    after = tree(place.parent)
    assert [name for name in after.keys() - before.keys() if not name.startswith("it/")] == []


def test_extremes_in_every_number_of_a_row(place: Path) -> None:
    def change(rows: pa.Table) -> pa.Table:
        for number, field in enumerate(rows.schema):
            if pa.types.is_integer(field.type):
                extreme: float = 2 ** (field.type.bit_width - 1) - 1
            elif pa.types.is_floating(field.type):
                extreme = float("inf")
            else:
                continue
            values = pa.array([extreme] * rows.num_rows, field.type)
            rows = rows.set_column(number, field, values)
        return rows

    for table in ("merges", "merge_sites", "msus", "adapters"):
        rewrite(place, table, change)
    held(place, everything)


@pytest.mark.parametrize("table", ["merges", "merge_sites", "msus", "adapters"])
def test_nulls_everywhere(table: str, place: Path) -> None:
    def change(rows: pa.Table) -> pa.Table:
        columns = [pa.nulls(rows.num_rows, field.type) for field in rows.schema]
        fields = [field.with_nullable(True) for field in rows.schema]
        return pa.table(columns, schema=pa.schema(fields))

    rewrite(place, table, change)
    assert held(place, reads)


@pytest.mark.parametrize(
    "path", ["../../out/x.parquet", "%2e%2e/%2e%2e/out/x.parquet", "{}", "file://{}"]
)
def test_a_log_that_names_a_file_elsewhere_has_none_read(path: str, place: Path) -> None:
    (place / "out").mkdir()
    secret = place / "out" / "x.parquet"
    rows = pq.read_table(data_of(place))
    number = rows.column_names.index("name")
    pq.write_table(rows.set_column(number, rows.schema.field("name"), [[SECRET]]), secret)

    def change(action: dict[str, Any]) -> None:
        if "add" in action:
            action["add"] |= {"path": path.format(secret), "size": secret.stat().st_size}

    edit_log(place, change)
    with pytest.raises(CatalogError):
        lego_ray.catalog.sql(place / "catalog", "SELECT name FROM merges")
    before = tree(place / "out")
    held(place, reads)
    assert tree(place / "out") == before


@pytest.mark.parametrize("what", ["file", "table", "log"])
def test_links_in_a_catalog_are_not_followed(what: str, place: Path) -> None:
    (place / "out").mkdir()
    table = place / "catalog" / "merges"
    linked = {"file": data_of(place), "table": table, "log": table / "_delta_log"}[what]
    shutil.move(linked, place / "out" / "x")
    linked.symlink_to(place / "out" / "x")
    with pytest.raises(CatalogError, match="link"):
        lego_ray.catalog.list_merges(place / "catalog")
    before = tree(place / "out")
    held(place, reads)
    assert tree(place / "out") == before


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no file": lambda place: data_of(place).unlink(),
    "an empty file": lambda place: data_of(place).write_bytes(b""),
    "no Parquet": lambda place: data_of(place).write_bytes(b"PAR1" + bytes(99) + b"PAR1"),
    "half a file": lambda place: data_of(place).write_bytes(data_of(place).read_bytes()[:700]),
    "no log": lambda place: log_of(place).write_bytes(b'{"add":'),
    "a log of bytes": lambda place: log_of(place).write_bytes(b"\xff\xfe" * 99),
    "a deep log": lambda place: log_of(place).write_bytes(b"[" * 100_000),
    "a log of nothing": lambda place: log_of(place).write_bytes(b"{}\n[]\nnull\n1\n"),
    "a checkpoint that is not there": lambda place: (
        log_of(place).parent / "_last_checkpoint"
    ).write_text('{"version": 9, "size": 1}'),
    "no file of details": lambda place: data_of(place, "msus").unlink(),
    "no file of adapters": lambda place: data_of(place, "adapters").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_said_by_type(damage: Callable[[Path], object], place: Path) -> None:
    damage(place)
    held(place, everything)


def test_columns_of_other_types_are_named(place: Path) -> None:
    def change(action: dict[str, Any]) -> None:
        if "metaData" in action:
            schema = json.loads(action["metaData"]["schemaString"])
            for field in schema["fields"]:
                if field["name"] == "version":
                    field["type"] = "string"
            action["metaData"]["schemaString"] = json.dumps(schema)

    for log in (place / "catalog" / "merges" / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            change(action)
        log.write_text("\n".join(map(json.dumps, actions)))
    with pytest.raises(CatalogError, match=r"merges\.version: got string"):
        lego_ray.catalog.list_merges(place / "catalog")
    assert "version" in TABLES["merges"].schema.names
    held(place, reads)
