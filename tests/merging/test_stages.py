"""Where a run's time went is in the catalog, and nowhere that must be the same between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import lego_ray
from lego_ray import catalog
from tests.zoo import WEIGHTS, write_zoo


def stages(place: Path, name: str) -> dict[str, Any]:
    rows = catalog.sql(place, f"SELECT stages FROM merges WHERE name = '{name}'").to_pylist()
    return {row["stage"]: row for row in rows[0]["stages"]}


def test_a_merge_records_its_stages_in_order(tmp_path: Path) -> None:
    zoo, place = write_zoo(tmp_path / "zoo", 3), tmp_path / "catalog"
    record = lego_ray.merge(zoo, rank=4, output=tmp_path / "m", catalog=place, runner="inline")
    found = stages(place, "m")
    assert list(found) == ["scan", "start", "plan", "solve", "publish"]
    assert found["scan"]["bytes"] + found["solve"]["bytes"] == record["bytes_read"]
    written = [f for f in (tmp_path / "m").iterdir() if f.is_file()]
    assert found["publish"]["bytes"] == sum(f.stat().st_size for f in written)
    assert all(row["seconds"] >= 0 for row in found.values())
    assert 0 < sum(row["seconds"] for row in found.values()) <= record["seconds"] + 0.001


def test_choosing_ranks_is_a_stage_of_its_own(tmp_path: Path) -> None:
    zoo, place = write_zoo(tmp_path / "zoo", 3), tmp_path / "catalog"
    lego_ray.merge(zoo, rank="auto", output=tmp_path / "m", catalog=place, runner="inline")
    found = stages(place, "m")
    assert list(found) == ["scan", "start", "plan", "measure", "solve", "publish"]
    assert found["measure"]["bytes"] == found["solve"]["bytes"] > 0


def test_merges_of_a_build_have_what_they_read_alone(tmp_path: Path) -> None:
    zoo, place = write_zoo(tmp_path / "zoo", 3), tmp_path / "catalog"
    entries = [{"name": "x", "rank": 2}, {"name": "y", "rank": 3}]
    recipe = tmp_path / "library.yaml"
    recipe.write_text(yaml.safe_dump({"sources": [str(zoo)], "merges": entries}))
    lego_ray.build(recipe, output=tmp_path / "out", catalog=place, runner="inline")
    size = (zoo / "a0" / WEIGHTS).stat().st_size
    for name in ("x", "y"):
        found = stages(place, name)
        assert list(found) == ["scan", "start", "plan", "solve", "publish"]
        assert found["solve"]["bytes"] < size, "what both need is in neither"
        assert found["solve"]["seconds"] > 0
