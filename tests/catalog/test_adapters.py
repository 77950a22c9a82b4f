"""Scanning again doubles nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError
from tests.catalog.sample import NOW, adapter, refused

LATER = NOW + timedelta(days=1)
N_RACERS = 4


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "catalog"))


def state(catalog: Catalog) -> list[tuple[str, str, str]]:
    rows = catalog.read("adapters").to_pylist()
    return sorted((r["uri"], (r["adapter_id"] or "")[:1], r["status"]) for r in rows)


def test_scanning_again_makes_no_commit(catalog: Catalog) -> None:
    assert record_adapters(catalog, [adapter(), refused()]) == 2
    version = catalog.open("adapters").version()
    tags = {"language": "en", "task": "qa"}
    again = [adapter(scanned_at=LATER, tags=tags), refused(scanned_at=LATER)]
    assert record_adapters(catalog, again) == 0
    assert catalog.open("adapters").version() == version
    assert catalog.read("adapters")["scanned_at"].to_pylist() == [NOW, NOW]


def test_only_what_is_new_is_appended(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter()])
    assert record_adapters(catalog, [adapter(), adapter(uri="/zoo/b")]) == 1
    assert state(catalog) == [("/zoo/a", "a", "ok"), ("/zoo/b", "a", "ok")]


def test_a_rewritten_adapter_gets_a_row_beside_its_former_one(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter()])
    assert record_adapters(catalog, [adapter(adapter_id="b" * 64)]) == 1
    assert state(catalog) == [("/zoo/a", "a", "ok"), ("/zoo/a", "b", "ok")]


def test_what_is_said_otherwise_takes_the_place_of_what_was_said(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter(), refused()])
    assert record_adapters(catalog, [refused(reason="other"), adapter(license="apache")]) == 2
    rows = catalog.read("adapters").to_pylist()
    assert sorted(r["reason"] or r["license"] for r in rows) == ["apache", "other"]


def test_a_usable_adapter_ends_the_refusal(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter(), refused(uri="/zoo/a"), refused()])
    assert state(catalog) == [
        ("/zoo/a", "", "refused"),
        ("/zoo/a", "a", "ok"),
        ("/zoo/bad", "", "refused"),
    ]
    record_adapters(catalog, [adapter()])
    assert state(catalog) == [("/zoo/a", "a", "ok"), ("/zoo/bad", "", "refused")]


def test_a_quarantine_ends_only_with_new_content(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter()])
    record_adapters(catalog, [refused(uri="/zoo/a", status="quarantined")])
    assert record_adapters(catalog, [adapter(scanned_at=LATER)]) == 0
    assert ("/zoo/a", "", "quarantined") in state(catalog)
    record_adapters(catalog, [adapter(adapter_id="b" * 64)])
    assert state(catalog) == [("/zoo/a", "a", "ok"), ("/zoo/a", "b", "ok")]


def test_of_two_rows_alike_in_one_scan_one_is_kept(catalog: Catalog) -> None:
    assert record_adapters(catalog, [adapter(), adapter(), refused(), refused()]) == 2


def test_racing_scans_of_overlapping_zoos_double_nothing(catalog: Catalog) -> None:
    barrier = Barrier(N_RACERS)

    def race(i: int) -> int:
        rows = [adapter(uri=f"/zoo/{j}") for j in range(3 * i, 3 * i + 6)]
        rows.append(refused(reason=f"found by {i}"))
        barrier.wait()
        return record_adapters(catalog, rows)

    with ThreadPoolExecutor(N_RACERS) as pool:
        list(pool.map(race, range(N_RACERS)))
    uris = catalog.read("adapters")["uri"].to_pylist()
    assert sorted(uris) == sorted([f"/zoo/{j}" for j in range(15)] + ["/zoo/bad"])


def test_ok_without_an_id_is_refused(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="/zoo/a: its status is ok"):
        record_adapters(catalog, [adapter(adapter_id=None)])
    assert not catalog.exists("adapters")


def test_nothing_scanned_makes_no_table(catalog: Catalog) -> None:
    assert record_adapters(catalog, []) == 0
    assert not catalog.exists("adapters")
