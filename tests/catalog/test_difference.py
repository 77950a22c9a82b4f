"""What was done to a catalog, and what differs between two of its moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lego_ray.catalog import diff
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.difference import difference, differences_of_merges
from lego_ray.catalog.events import events
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, InvalidOption
from tests.catalog.sample import NOW, adapter, details, merge, refused
from tests.catalog.test_moments import now

LATER = NOW + timedelta(hours=1)
FIRST, SECOND, THIRD = "1" * 64, "2" * 64, "3" * 64


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "catalog"))


def publish(catalog: Catalog, merge_id: str, **changes: object) -> None:
    append_merge(catalog, merge(merge_id=merge_id, version=None, **changes), *details(merge_id))


def said(table: object) -> list[tuple[str, ...]]:
    rows = table.to_pylist()  # type: ignore[attr-defined]
    return [(row["change"], row["what"], row["name"], row["differs"]) for row in rows]


def test_what_was_added_changed_and_gone(catalog: Catalog) -> None:
    start = now()
    record_adapters(catalog, [adapter(), refused()])
    publish(catalog, FIRST)
    middle = now()
    record_adapters(
        catalog,
        [
            adapter(license="gpl-3.0", tags={"task": "chat", "language": "en"}, scanned_at=LATER),
            adapter(uri="/zoo/b", adapter_id="b" * 64, scanned_at=LATER),
            adapter(uri="/zoo/bad", adapter_id="d" * 64, scanned_at=LATER),
            refused(uri="/zoo/c", scanned_at=LATER),
        ],
    )
    publish(catalog, SECOND, rank=16, adapter_ids=["a" * 64, "c" * 64, "d" * 64], method="iso")
    publish(catalog, THIRD, name="other")
    assert said(difference(catalog.as_of(middle), catalog)) == [
        ("changed", "adapter", "a", "license mit -> gpl-3.0; tag task qa -> chat"),
        ("added", "adapter", "b", ""),
        ("changed", "adapter", "bad", "usable now"),
        ("added", "adapter", "c", "refused: MalformedAdapter: truncated"),
        ("added", "merge", "other version 1", "rank 8, 2 adapters"),
        (
            *("added", "merge", "support version 2"),
            "rank 8 -> 16; method lego -> iso; 2 adapters more; 1 adapter fewer",
        ),
    ]
    everything = difference(catalog.as_of(start), catalog)
    assert set(everything["change"].to_pylist()) == {"added"}
    assert everything.num_rows == 4 + 3
    assert difference(catalog, catalog).num_rows == 0
    back = difference(catalog, catalog.as_of(middle))
    assert set(back["change"].to_pylist()) == {"changed", "gone"}


def test_since_a_version_of_a_merge(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter()])
    publish(catalog, FIRST)
    now()
    record_adapters(catalog, [adapter(license="gpl-3.0", scanned_at=LATER)])
    publish(catalog, SECOND, rank=16)
    now()
    publish(catalog, THIRD, name="other")
    wanted = [
        ("changed", "adapter", "a", "license mit -> gpl-3.0"),
        ("added", "merge", "other version 1", "rank 8, 2 adapters"),
        ("added", "merge", "support version 2", "rank 8 -> 16"),
    ]
    assert said(diff(catalog.uri, since="support@1")) == wanted
    assert said(diff(catalog.uri, since="support@v2")) == wanted[1:2]
    assert diff(catalog.uri, since="other@1").num_rows == 0
    with pytest.raises(InvalidOption, match="version 3 does not exist"):
        diff(catalog.uri, since="support@3")
    with pytest.raises(InvalidOption, match="not a valid time"):
        diff(catalog.uri, since="support")


def test_adapters_with_other_weights_or_ranks_are_told_apart(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter()])
    middle = now()
    record_adapters(catalog, [adapter(adapter_id="e" * 64, rank_max=16, scanned_at=LATER)])
    [row] = difference(catalog.as_of(middle), catalog).to_pylist()
    assert (row["differs"], row["id"], row["uri"]) == (
        *("rank 4-8 -> 4-16; other weights", "e" * 64),
        "/zoo/a",
    )


def test_another_recipe_is_named_where_nothing_else_differs() -> None:
    assert differences_of_merges(merge(), merge(recipe='{"seed": 1}')) == ["another recipe"]
    assert differences_of_merges(merge(), merge(seed=1)) == [f"seed {2**62} -> 1"]
    assert differences_of_merges(merge(), merge()) == []


def test_the_log_has_scans_and_merges_newest_first(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter(), refused()])
    moment = now()
    record_adapters(catalog, [adapter(uri="/zoo/b", adapter_id="b" * 64, scanned_at=LATER)])
    publish(catalog, FIRST, created_at=NOW + timedelta(minutes=1))
    rows = events(catalog).to_pylist()
    assert [(row["event"], row["time"], row["adapters"], row["refused"]) for row in rows] == [
        ("scan", LATER, 1, 0),
        ("merge", NOW + timedelta(minutes=1), 2, None),
        ("scan", NOW, 1, 1),
    ]
    assert [row["event"] for row in events(catalog, since=LATER).to_pylist()] == ["scan"]
    assert events(catalog, since=datetime.now(UTC)).num_rows == 0
    assert [row["time"] for row in events(catalog.as_of(moment)).to_pylist()] == [NOW]


def test_before_the_first_row_nothing_and_without_a_catalog_an_error(catalog: Catalog) -> None:
    start = now()
    with pytest.raises(CatalogNotFound):
        events(catalog)
    with pytest.raises(CatalogNotFound):
        difference(catalog.as_of(start), catalog)
    record_adapters(catalog, [adapter()])
    assert events(catalog.as_of(start)).num_rows == 0
    assert difference(catalog.as_of(start), catalog.as_of(start)).num_rows == 0
