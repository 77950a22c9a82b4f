"""The catalog as it was: the merges recorded by then, whole, whatever was done to the files since."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.ancestry import lineage
from lego_ray.catalog.commits import commits_of
from lego_ray.catalog.history import list_merges, show
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.moments import parse_moment, travel
from lego_ray.catalog.query import sql
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.compact import compact
from lego_ray.catalog.upkeep.migrate import migrate
from lego_ray.catalog.upkeep.vacuum import vacuum
from lego_ray.errors import CatalogError, CatalogNotFound, InvalidOption, NotRecordedYet
from tests.catalog.sample import adapter, details, merge
from tests.catalog.stores import STORES, fresh_catalog
from tests.catalog.version_one import write_table

FIRST, SECOND = "m" * 64, "n" * 64
COUNTS = "SELECT (SELECT count(*) FROM merges) AS m, (SELECT count(*) FROM msus) AS s"


def now() -> datetime:
    """A moment with no commit in its millisecond: commits are dated in whole ones."""
    time.sleep(0.005)
    moment = datetime.now(UTC)
    time.sleep(0.005)
    return moment


def fill(catalog: Catalog) -> list[datetime]:
    """Two merges of `support` and, between them, a changed adapter; moments around each step."""
    moments = [now()]
    record_adapters(catalog, [adapter()])
    append_merge(catalog, merge(merge_id=FIRST, version=None), *details(FIRST))
    moments.append(now())
    record_adapters(catalog, [adapter(license="gpl-3.0")])
    append_merge(catalog, merge(merge_id=SECOND, version=None), *details(SECOND))
    moments.append(now())
    return moments


@pytest.fixture(params=STORES)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    return fresh_catalog(request, tmp_path)


@pytest.fixture
def on_disk(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "catalog"))


def test_each_question_is_answered_as_of_then(catalog: Catalog) -> None:
    before, between, end = fill(catalog)
    assert sql(catalog.as_of(end), COUNTS).to_pylist() == sql(catalog, COUNTS).to_pylist()
    assert sql(catalog, COUNTS).to_pylist() == [{"m": 2, "s": 10}]
    then = catalog.as_of(between)
    assert sql(then, COUNTS).to_pylist() == [{"m": 1, "s": 5}]
    assert list_merges(then)["merge_id"].to_pylist() == [FIRST]
    assert show(then, "support").merge["version"] == 1
    assert show(catalog, "support").merge["version"] == 2
    assert lineage(then, "support")["msus"].to_pylist() == [4, 1]
    assert then.read("adapters")["license"].to_pylist() == ["mit"]
    with pytest.raises(InvalidOption, match="no merge"):
        show(then, SECOND)
    assert sql(catalog.as_of(before), COUNTS).to_pylist() == [{"m": 0, "s": 0}]
    assert list_merges(catalog.as_of(before)).num_rows == 0
    with pytest.raises(NotRecordedYet, match=r"it was not in the catalog at .* was recorded at"):
        show(catalog.as_of(before), "support")


def test_a_place_without_a_catalog_has_none_at_any_time(on_disk: Catalog) -> None:
    with pytest.raises(CatalogNotFound):
        list_merges(on_disk.as_of(now()))
    with pytest.raises(CatalogNotFound):
        sql(on_disk.as_of(now()), COUNTS)


def test_compaction_changes_no_answer_and_a_vacuum_says_what_it_took(on_disk: Catalog) -> None:
    _, between, _ = fill(on_disk)
    for table in on_disk.tables():
        compact(on_disk, table)
        vacuum(on_disk, table)
    then = on_disk.as_of(between)
    assert sql(then, COUNTS).to_pylist() == [{"m": 1, "s": 5}]
    for table in on_disk.tables():
        vacuum(on_disk, table, timedelta(0), force=True)
    with pytest.raises(CatalogError, match="removed by a vacuum"):
        list_merges(then)
    assert list_merges(on_disk).num_rows == 2


def test_a_copy_of_the_files_is_asked_the_same(on_disk: Catalog, tmp_path: Path) -> None:
    """Moments are in the log, not in the files' own times, which a copy does not keep."""
    _, between, _ = fill(on_disk)
    copy = Catalog(str(shutil.copytree(on_disk.uri, tmp_path / "copy")))
    for file in Path(copy.uri).rglob("*"):
        os.utime(file)
    assert list_merges(copy.as_of(between))["merge_id"].to_pylist() == [FIRST]


def test_a_moment_before_a_migration_is_read_with_todays_columns(on_disk: Catalog) -> None:
    row = {k: v for k, v in merge().items() if k not in ("licenses", "license_conflicts")}
    write_table(on_disk.uri, "merges", [row], [(FIRST, 1)])
    moment = now()
    migrate(on_disk)
    then = on_disk.as_of(moment)
    assert sql(then, "SELECT licenses FROM merges").to_pylist() == [{"licenses": None}]


def test_a_log_that_does_not_reach_back_is_said_so(on_disk: Catalog) -> None:
    before, between, _ = fill(on_disk)
    handle = on_disk.open("merges")
    handle.create_checkpoint()
    log = Path(on_disk.table_uri("merges"), "_delta_log")
    for version in range(handle.version()):
        (log / f"{version:020d}.json").unlink()
    for moment in (before, between):
        with pytest.raises(CatalogError, match="does not go back"):
            list_merges(on_disk.as_of(moment))
    assert list_merges(on_disk).num_rows == 2


def test_the_past_cannot_be_written(on_disk: Catalog) -> None:
    *_, end = fill(on_disk)
    with pytest.raises(CatalogError, match="is read-only"):
        on_disk.as_of(end).append("merges", [merge(merge_id="x" * 64)])


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-04T05:06Z", datetime(2026, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-03-04T05:06", datetime(2026, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-03-04 05:06:07.089", datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)),
        ("2026-03-04T05:06+02:00", datetime(2026, 3, 4, 3, 6, tzinfo=UTC)),
        ("2026-03-04", datetime(2026, 3, 4, tzinfo=UTC)),
    ],
)
def test_moments_are_iso_times_in_utc(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment
    assert parse_moment(text).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lately", "not a valid time"),
        ("2w", "not a valid time"),
        ("", "not a valid time"),
        ("9999-01-01", "in the future"),
    ],
)
def test_what_is_no_moment_of_the_past_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        parse_moment(text)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("now", timedelta(0)),
        ("yesterday", timedelta(days=1)),
        ("2d", timedelta(days=2)),
        ("36h ago", timedelta(hours=36)),
        ("90 m", timedelta(minutes=90)),
    ],
)
def test_a_moment_may_be_how_long_ago_it_was(text: str, ago: timedelta) -> None:
    assert abs(datetime.now(UTC) - ago - parse_moment(text)) < timedelta(minutes=1)


def test_a_moment_of_another_zone_is_the_same_moment(on_disk: Catalog) -> None:
    _, between, _ = fill(on_disk)
    elsewhere = between.astimezone(timezone(timedelta(hours=9)))
    assert list_merges(on_disk.as_of(elsewhere)).num_rows == 1


@pytest.mark.parametrize("ago", [0, 1, 40, 63, 64, 65, 200, 255, 256, 257, 299])
def test_no_more_of_a_long_log_is_read_than_goes_back_to_the_moment(
    on_disk: Catalog, monkeypatch: pytest.MonkeyPatch, ago: int
) -> None:
    """A commit of the log is a request; each of these is an hour after the one before it."""
    commits = [{"timestamp": 3_600_000 * (1 + each)} for each in range(300)]

    class Log:
        read = 0
        loaded = -1

        def version(self) -> int:
            return len(commits) - 1

        def history(self, limit: int) -> list[dict[str, int]]:
            first = max(0, len(commits) - limit)
            self.read += len(commits) - first
            return [{**commits[v], "version": v} for v in range(len(commits) - 1, first - 1, -1)]

        def load_as_version(self, version: int) -> None:
            self.loaded = version

        def update_incremental(self) -> None:
            pass

    log = Log()
    at = datetime.fromtimestamp(3600 * (300 - ago) + 1, UTC)
    travel(on_disk.uri, log, at)  # type: ignore[arg-type]
    assert log.loaded == 299 - ago
    assert log.read <= 64 + 4 * (ago + 2)


class Racing(DeltaTable):
    """A table that others write to before each look at its log, so many times."""

    left = 3

    def _written(self) -> None:
        if self.left:
            self.left -= 1
            write_deltalake(self.table_uri, pa.table({"x": [9]}), mode="append")

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        self._written()
        return super().history(limit)

    def update_incremental(self) -> None:
        self._written()
        super().update_incremental()


@pytest.mark.parametrize("times", range(6))
def test_commits_that_are_made_meanwhile_shift_no_version(times: int, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    moments = [now()]
    for value in range(3):
        write_deltalake(uri, pa.table({"x": [value]}), mode="append")
        moments.append(now())
    for version, moment in enumerate(moments[1:]):
        handle = Racing(uri)
        handle.left = times
        travel(uri, handle, moment)
        assert handle.version() == version
        assert sorted(handle.to_pyarrow_table()["x"].to_pylist()) == list(range(version + 1))
    handle = Racing(uri)
    handle.left = times
    with pytest.raises(CatalogNotFound, match="did not exist"):
        travel(uri, handle, moments[0])
    handle.left = times
    with pytest.raises(CatalogNotFound, match="did not exist"):
        travel(uri, handle, datetime(1, 1, 1, tzinfo=UTC))


def test_a_table_that_is_never_at_rest_is_said_so(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    write_deltalake(uri, pa.table({"x": [0]}))
    handle = Racing(uri)
    handle.left = 1000
    with pytest.raises(CatalogError, match="too fast"):
        commits_of(handle)
