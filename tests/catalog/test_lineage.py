"""From a merged rank to the source ranks, and from an adapter to every merge that holds it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.ancestry import lineage, rank_sources
from lego_ray.catalog.holders import merges_with
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, InvalidOption
from tests.catalog.sample import NOW, adapter, details, merge, msu, refused, site

A, B, C, MERGED, AGAIN = "a" * 64, "b" * 64, "c" * 64, "1" * 64, "2" * 64
FIRST, SECOND, THIRD = "f" * 64, "e" * 64, "d" * 64


def record(catalog: Catalog, merge_id: str, name: str, held: list[str], **changes: Any) -> None:
    """A merge at one site, each adapter with one rank in cluster 0."""
    row = merge(merge_id=merge_id, name=name, version=None, adapter_ids=held, **changes)
    msus = [msu(merge_id=merge_id, adapter_id=each, weight=1 / len(held)) for each in held]
    append_merge(catalog, row, [site(merge_id=merge_id, n_msus=len(held))], msus)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path / "catalog"))
    record_adapters(catalog, [adapter(), adapter(adapter_id=C, uri="/other/c"), refused()])
    sites, msus = details(FIRST)
    append_merge(catalog, merge(merge_id=FIRST, version=None), sites, msus)
    return catalog


@pytest.fixture
def chain(tmp_path: Path) -> Catalog:
    """A and b make `one`; its output and c make `two`; its output makes `three`; d makes `four`."""
    catalog = Catalog(str(tmp_path / "catalog"))
    found = [(A, "/zoo/a"), (B, "/zoo/b"), (C, "/zoo/c"), (MERGED, "/out/one"), (AGAIN, "/out/two")]
    record_adapters(catalog, [adapter(adapter_id=i, uri=uri) for i, uri in found])
    record_adapters(catalog, [adapter(adapter_id="9" * 64, uri="hf://org/d@commit")])
    record(catalog, FIRST, "one", [A, B], output_uri="/out/one", output_adapter_id=MERGED)
    later = {"created_at": NOW + timedelta(days=1)}
    # As version 1 recorded it: its output is known by where it was found.
    record(
        catalog, SECOND, "two", [MERGED, C], output_uri="/out/two", output_adapter_id=None, **later
    )
    record(catalog, THIRD, "three", [AGAIN], output_uri="/out/three", output_adapter_id="3" * 64)
    record(
        catalog, "4" * 64, "four", ["9" * 64], output_uri="/out/four", output_adapter_id="5" * 64
    )
    return catalog


def held(catalog: Catalog, adapter: str) -> list[tuple[int, str, str, str | None]]:
    rows = merges_with(catalog, adapter).to_pylist()
    return [(r["depth"], r["name"], r["adapter_id"], r["through"]) for r in rows]


WHOLE_CHAIN = [(1, "one", A, None), (2, "two", MERGED, FIRST), (3, "three", AGAIN, SECOND)]


def test_each_adapters_share_is_counted(catalog: Catalog) -> None:
    assert lineage(catalog, "support").to_pylist() == [
        {
            "adapter_id": A,
            "uri": "/zoo/a",
            "msus": 4,
            "clusters": 4,
            "weight": 2.0,
            "share": 0.8,
            "merge_id": None,
            "similarity": None,
        },
        {
            "adapter_id": B,
            "uri": None,
            "msus": 1,
            "clusters": 1,
            "weight": 0.5,
            "share": 0.2,
            "merge_id": None,
            "similarity": None,
        },
    ]


def test_a_merge_without_details_has_its_adapters(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    append_merge(catalog, merge(), [], [])
    assert lineage(catalog, "support")["msus"].to_pylist() == [0, 0]


def test_a_source_that_is_a_merge_is_named(chain: Catalog) -> None:
    assert lineage(chain, "two")["merge_id"].to_pylist() == [FIRST, None]
    assert lineage(chain, "three")["merge_id"].to_pylist() == [SECOND]


def test_a_merged_rank_has_its_source_ranks(catalog: Catalog) -> None:
    rows = rank_sources(catalog, "support", site="layers.0.q_proj", rank=1).to_pylist()
    both = {"site": "layers.0.q_proj", "cluster": 1, "weight": 0.5, "distance": 0.125}
    assert rows == [
        {**both, "adapter_id": A, "uri": "/zoo/a", "rank_index": 1},
        {**both, "adapter_id": B, "uri": None, "rank_index": 0},
    ]


def test_the_heaviest_source_comes_first_and_layers_in_their_order(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    names = ["layers.10.q_proj", "layers.2.q_proj"]
    sites = [site(site=name, rank=1) for name in names]
    msus = [
        msu(site=name, rank_index=i, weight=w) for name in names for i, w in enumerate((0.25, 0.75))
    ]
    append_merge(catalog, merge(), sites, msus)
    rows = rank_sources(catalog, "support").to_pylist()
    assert [(r["site"], r["weight"]) for r in rows] == [
        ("layers.2.q_proj", 0.75),
        ("layers.2.q_proj", 0.25),
        ("layers.10.q_proj", 0.75),
        ("layers.10.q_proj", 0.25),
    ]


def test_a_site_alone_or_a_rank_alone_takes_all_of_the_other(catalog: Catalog) -> None:
    rows = rank_sources(catalog, "support", site="layers.1.q_proj").to_pylist()
    assert [(r["cluster"], r["adapter_id"]) for r in rows] == [(0, A), (1, A)]
    rows = rank_sources(catalog, "support", rank=0).to_pylist()
    assert [r["site"] for r in rows] == ["layers.0.q_proj", "layers.1.q_proj"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"site": "layers.0.qproj"}, r"Did you mean layers\.0\.q_proj\?"),
        ({"site": "layers.0.q_proj", "rank": 2}, "rank 2 does not exist; ranks are 0 to 1"),
        ({"rank": -1}, "rank -1 does not exist"),
    ],
)
def test_a_site_or_rank_that_is_not_there_is_refused(
    catalog: Catalog, asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidOption, match=says):
        rank_sources(catalog, "support", **asked)


def test_a_merge_of_a_release_before_that_mixes_msus_says_so(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    append_merge(catalog, merge(method="svd"), [site(inertia=None)], [])
    with pytest.raises(InvalidOption, match="svd, mixes MSUs"):
        rank_sources(catalog, "support", site="layers.0.q_proj")
    assert lineage(catalog, "support")["weight"].to_pylist() == [0.0, 0.0]


@pytest.fixture
def mixed(tmp_path: Path) -> Catalog:
    """A merge whose ranks are mixtures: two of one site, the second with shares that are not named."""
    catalog = Catalog(str(tmp_path))
    shares = [
        (A, 0, 0, 1.25),
        (B, 0, 0, -0.25),
        (A, 0, 1, 0.5),
        (A, 1, 1, 0.25),
        (A, -1, -1, 0.375),
        (B, -1, -1, -0.125),
    ]
    msus = [
        msu(adapter_id=a, rank_index=j, cluster=i, weight=w, distance=None) for a, j, i, w in shares
    ]
    row = merge(method="svd", n_sites=1, n_msus=len(msus))
    append_merge(catalog, row, [site(inertia=None, rank=2)], msus)
    return catalog


def test_each_adapters_share_of_a_mixture_has_what_is_not_named(mixed: Catalog) -> None:
    rows = lineage(mixed, "support").to_pylist()
    assert [(r["adapter_id"], r["msus"], r["clusters"], r["weight"]) for r in rows] == [
        (A, 2, 2, 2.375),
        (B, 1, 1, -0.375),
    ]


def test_a_merged_rank_that_is_a_mixture_adds_up_to_one(mixed: Catalog) -> None:
    rows = rank_sources(mixed, "support").to_pylist()
    assert [(r["cluster"], r["adapter_id"], r["rank_index"], r["weight"]) for r in rows] == [
        (0, A, 0, 1.25),
        (0, B, 0, -0.25),
        (1, A, 0, 0.5),
        (1, A, 1, 0.25),
        (1, None, None, 0.25),
    ]
    assert {r["uri"] for r in rows} == {None}


def test_an_adapter_is_found_in_every_merge_that_holds_it(chain: Catalog) -> None:
    assert held(chain, A) == WHOLE_CHAIN
    assert held(chain, C) == [(1, "two", C, None), (2, "three", AGAIN, SECOND)]
    assert held(chain, MERGED) == [(1, "two", MERGED, None), (2, "three", AGAIN, SECOND)]
    assert held(chain, AGAIN) == [(1, "three", AGAIN, None)]


def test_its_share_is_that_of_what_each_merge_holds(chain: Catalog) -> None:
    rows = merges_with(chain, A).to_pylist()
    assert [(r["msus"], r["clusters"], r["weight"]) for r in rows] == [
        (1, 1, 0.5),
        (1, 1, 0.5),
        (1, 1, 1.0),
    ]
    assert [r["output_uri"] for r in rows] == ["/out/one", "/out/two", "/out/three"]


@pytest.mark.parametrize("name", [A, A[:6], "/zoo/a", "/zoo/a/", "file:///zoo/a", "a"])
def test_an_adapter_goes_by_its_id_its_uri_or_its_name(chain: Catalog, name: str) -> None:
    assert held(chain, name) == WHOLE_CHAIN


@pytest.mark.parametrize("name", ["hf://org/d", "hf://org/d@commit", "d"])
def test_a_hub_repository_goes_without_its_commit(chain: Catalog, name: str) -> None:
    assert [row[1] for row in held(chain, name)] == ["four"]


def test_an_output_nobody_scanned_is_known(chain: Catalog) -> None:
    assert held(chain, "/out/three") == []


def test_a_uri_means_all_that_was_ever_there(chain: Catalog) -> None:
    record_adapters(chain, [adapter(adapter_id="9" * 64, uri="/zoo/a")])
    assert {row[1] for row in held(chain, "/zoo/a")} == {"one", "two", "three", "four"}


def test_an_adapter_in_no_merge_has_no_rows(catalog: Catalog) -> None:
    assert merges_with(catalog, "/other/c").num_rows == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/zoo/aa", "Did you mean a"),
        ("a" * 5, "knows no adapter"),
        ("hf://nobody/nothing", "knows no adapter"),
        ("", "empty"),
    ],
)
def test_an_adapter_that_is_not_known_is_refused(chain: Catalog, name: str, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        merges_with(chain, name)


def test_a_name_of_several_is_refused(chain: Catalog) -> None:
    record_adapters(chain, [adapter(adapter_id="8" * 64, uri="/elsewhere/a")])
    with pytest.raises(InvalidOption, match="/elsewhere/a, /zoo/a"):
        merges_with(chain, "a")


def test_an_empty_catalog_is_not_found(tmp_path: Path) -> None:
    for ask in (merges_with, lineage, rank_sources):
        with pytest.raises(CatalogNotFound):
            ask(Catalog(str(tmp_path)), "x")
