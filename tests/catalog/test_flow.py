"""Counting where the MSUs of a merge went."""

from __future__ import annotations

from pathlib import Path

from lego_ray.catalog.flow import flow
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.tables import Catalog
from tests.catalog.sample import details, merge, msu, site


def test_clusters_are_placed_by_size_and_adapters_counted_by_place(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    for merge_id in ("m" * 64, "n" * 64):  # another merge's rows are not counted
        append_merge(catalog, merge(merge_id=merge_id, version=None), *details(merge_id))
    found = flow(catalog, "m" * 64)
    assert found is not None
    columns = ("site", "place", "cluster", "msus", "adapters")
    assert [tuple(row[c] for c in columns) for row in found.clusters.to_pylist()] == [
        ("layers.0.q_proj", 0, 1, 2, 2),
        ("layers.0.q_proj", 1, 0, 1, 1),
        ("layers.1.q_proj", 0, 0, 1, 1),
        ("layers.1.q_proj", 1, 1, 1, 1),
    ]
    assert [tuple(row.values()) for row in found.adapters.to_pylist()] == [
        ("a" * 64, 0, 2, 1),
        ("a" * 64, 1, 2, 2),
        ("b" * 64, 0, 1, 0),
    ]


def test_a_method_that_mixes_msus_has_none_to_count(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    append_merge(catalog, merge(version=None, n_msus=0), [site()], [])
    assert flow(catalog, "m" * 64) is None


def test_shares_of_mixtures_are_no_members(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    rows = [msu(distance=None, weight=0.5, cluster=i) for i in range(2)]
    append_merge(catalog, merge(version=None, method="svd", n_msus=2), [site()], rows)
    assert flow(catalog, "m" * 64) is None
