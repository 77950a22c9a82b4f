"""A merge that was published and not recorded is recorded from what lies at its output."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.catalog.opening import check_before_writing
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import ObjectNotFound, VerificationFailed
from tests.zoo import write_zoo

CLOCK = ("created_at", "seconds", "stages", "n_sites", "n_msus", "version")


def made(root: Path, **given: Any) -> Path:
    zoo = root / "zoo"
    if not zoo.exists():
        write_zoo(zoo, 3)
    output = root / "m"
    lego_ray.merge(zoo, rank=4, n_init=2, output=output, runner="inline", **given)
    return output


def rows(catalog: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Catalog(str(catalog)).read(table).to_pylist()
    return found


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_its_row_is_that_of_a_merge_that_was_recorded(tmp_path: Path) -> None:
    merged = made(tmp_path, catalog=tmp_path / "wanted")
    catalog = tmp_path / "c"
    record = lego_ray.adopt_merge(merged, catalog=catalog)
    assert (record.status, record.has_details, record.name) == ("recorded", False, "m")
    [mine], [wanted] = rows(catalog, "merges"), rows(tmp_path / "wanted", "merges")
    assert without(mine, *CLOCK) == without(wanted, *CLOCK)
    assert (mine["version"], mine["n_sites"], mine["n_msus"]) == (1, None, None)
    assert abs((mine["created_at"] - wanted["created_at"]).total_seconds()) < 60
    assert {row["adapter_id"] for row in rows(catalog, "adapters")} == set(wanted["adapter_ids"])
    assert lego_ray.check_catalog(catalog, deep=True).ok
    assert lego_ray.adopt_merge(merged, catalog=catalog).status == "already recorded"
    assert len(rows(catalog, "merges")) == 1


def test_details_that_had_been_written_become_its_own(tmp_path: Path) -> None:
    catalog = tmp_path / "c"
    merged = made(tmp_path, catalog=catalog)
    wanted = rows(catalog, "msus")
    shutil.rmtree(catalog / "merges")  # as of a run that ended before its row
    record = lego_ray.adopt_merge(merged, catalog=catalog)
    assert (record.status, record.has_details) == ("recorded", True)
    [mine] = rows(catalog, "merges")
    assert (mine["n_sites"], mine["n_msus"]) == (4, len(wanted))
    assert lego_ray.check_catalog(catalog).ok


def test_a_merge_recorded_so_is_current_and_can_be_made_again(tmp_path: Path) -> None:
    merged, catalog = made(tmp_path), tmp_path / "c"
    lego_ray.adopt_merge(merged, catalog=catalog)
    again = lego_ray.merge(
        tmp_path / "zoo", rank=4, n_init=2, output=merged, runner="inline", catalog=catalog
    )
    assert again.status == "already published"
    assert len(rows(catalog, "merges")) == 1


def test_only_a_whole_merge_is_recorded(tmp_path: Path) -> None:
    merged, catalog = made(tmp_path), tmp_path / "c"
    with (merged / "adapter_model.safetensors").open("ab") as weights:
        weights.write(b"x")
    with pytest.raises(VerificationFailed, match="sha256"):
        lego_ray.adopt_merge(merged, catalog=catalog)
    with pytest.raises(ObjectNotFound, match="not an adapter that lego-ray published"):
        lego_ray.adopt_merge(tmp_path / "zoo", catalog=catalog)
    assert not catalog.exists()


def test_a_merge_that_is_replaced_meanwhile_gives_no_row_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged, catalog = made(tmp_path), tmp_path / "c"
    lego_ray.merge(
        tmp_path / "zoo",
        rank=4,
        n_init=2,
        output=tmp_path / "wanted" / "m",
        runner="inline",
        catalog=tmp_path / "w",
    )
    other = lego_ray.merge(
        tmp_path / "zoo",
        rank=4,
        method="svd",
        name="m",
        output=tmp_path / "other",
        runner="inline",
    )

    def replaced(opened: Catalog) -> None:
        shutil.rmtree(merged)
        shutil.move(other.output, merged)
        check_before_writing(opened)

    monkeypatch.setattr("lego_ray.audit.adopt.check_before_writing", replaced)
    record = lego_ray.adopt_merge(merged, catalog=catalog)
    [mine], [row] = rows(catalog, "merges"), rows(tmp_path / "w", "merges")
    assert record.merge_id == mine["merge_id"] == row["merge_id"]
    assert mine["output_adapter_id"] == row["output_adapter_id"]
    assert mine["content_hash"] == row["content_hash"]
    assert {r["adapter_id"] for r in rows(catalog, "adapters")} == set(row["adapter_ids"])
