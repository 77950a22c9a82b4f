"""Finding merges, and where their ranks came from."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from lego_ray.catalog.history import list_merges, show
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, InvalidOption
from tests.catalog.sample import NOW, details, merge


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path / "catalog"))
    for i, name in enumerate(["support", "support", "sales"]):
        merge_id = f"{i}abcdef" + "0" * 57
        row = merge(
            merge_id=merge_id, name=name, version=None, created_at=NOW + timedelta(minutes=i)
        )
        append_merge(catalog, row, *details(merge_id))
    return catalog


def test_merges_are_listed_newest_first(catalog: Catalog) -> None:
    table = list_merges(catalog)
    assert table["name"].to_pylist() == ["sales", "support", "support"]
    assert table["version"].to_pylist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("merge_name", "version", "first"),
    [
        ("support", None, "1"),
        ("support", 1, "0"),
        ("sales", None, "2"),
        ("0abcdef", None, "0"),
        ("2abcdef" + "0" * 57, None, "2"),
    ],
)
def test_a_merge_is_found(
    catalog: Catalog, merge_name: str, version: int | None, first: str
) -> None:
    detail = show(catalog, merge_name, version)
    assert detail.merge["merge_id"][0] == first
    assert detail.merge["versions"]["torch"] == "2.7.0"
    assert detail.sites["site"].to_pylist() == ["layers.0.q_proj", "layers.1.q_proj"]
    assert detail.summary() == {
        "sites": 2,
        "msus": 8,
        "inertia": 0.5,
        "relative_error_mean": 0.5,
        "relative_error_max": 0.5,
        "norm_ratio_mean": 0.9,
    }


@pytest.mark.parametrize(
    ("merge_name", "version", "message"),
    [
        ("suport", None, "Did you mean support"),
        ("support", 7, "It has 1, 2"),
        ("0abc", None, "no merge has this name"),
    ],
)
def test_a_merge_not_there_is_explained(
    catalog: Catalog, merge_name: str, version: int | None, message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        show(catalog, merge_name, version)


def test_a_merge_without_details_is_shown(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    append_merge(catalog, merge(), [], [])
    assert show(catalog, "support").summary()["sites"] == 0


def test_an_empty_catalog_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound):
        list_merges(Catalog(str(tmp_path)))


def test_digits_of_several_are_refused_with_their_names(catalog: Catalog) -> None:
    same = "0abcdef" + "1" * 57
    append_merge(catalog, merge(merge_id=same, name="other", version=None), *details(same))
    with pytest.raises(InvalidOption) as refused:
        show(catalog, "0ABCDE")
    assert str(refused.value) == (
        "0ABCDE: 2 merges fit: 0abcdef00000 (support version 1), 0abcdef11111 (other version 1). "
        "Give more digits of the merge_id."
    )
    assert show(catalog, "0abcdef1").merge["name"] == "other"
