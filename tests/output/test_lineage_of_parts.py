"""The lineage of a merge whose sites were merged in several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import StoreUnavailable
from tests.merging.runs import fails_after
from tests.output.test_write import merge
from tests.zoo import write_zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", 3)


def test_a_merge_that_goes_on_has_the_lineage_of_one_that_ran_through(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"method": "svd", "name": "m"}
    merge(zoo, tmp_path / "wanted", catalog=tmp_path / "one", **options)
    fails_after(3, monkeypatch)
    with pytest.raises(StoreUnavailable):
        merge(zoo, tmp_path / "m", catalog=tmp_path / "other", **options)
    monkeypatch.undo()
    record = merge(zoo, tmp_path / "m", catalog=tmp_path / "other", **options)
    assert record["resumed_sites"] > 0
    wanted, found = (
        lego_ray.catalog.sql(tmp_path / name, "SELECT * FROM msus ORDER BY ALL").to_pylist()
        for name in ("one", "other")
    )
    assert wanted
    assert found == wanted
