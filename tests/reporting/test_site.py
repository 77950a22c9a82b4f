"""`lego-ray catalog site`: what is written, when, and what is left alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray import catalog as calls
from lego_ray.catalog import rows as catalog_rows
from lego_ray.catalog import tables as catalog_tables
from lego_ray.catalog.groups import record_groups
from lego_ray.catalog.schema import TABLES, Column, TableSpec
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.totals import shares_by_merge
from lego_ray.cli.main import cli
from lego_ray.errors import CatalogNotFound, InvalidOption, OutputExists
from lego_ray.reporting.site import files as site_files
from lego_ray.reporting.site import library as site_library
from lego_ray.reporting.site import pages
from lego_ray.storage.base import Store
from lego_ray.storage.uri import parse_uri
from tests.catalog.sample import adapter, details, group, merge, refused
from tests.reporting.site_catalog import EVIL, HOSTILE, hostile_catalog, large_catalog, real_catalog
from tests.zoo import write_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real catalog and the library it records."""
    root = tmp_path_factory.mktemp("site")
    real_catalog(root)
    return root


def site_data(store: Store) -> dict[str, Any]:
    """The data of each file of a site, by its name: read as the browser does, from the index on."""
    index = store.read("index.html").decode()
    found: dict[str, Any] = {}
    _, site = parsed(store.read(index.split('src="')[2].split('"')[0]))
    found["site"] = site
    for name, key in site["files"].items():
        called, data = parsed(store.read(key))
        assert called == name
        found[name] = data
    return found


def parsed(script: bytes) -> tuple[str, Any]:
    text = script.decode("ascii")
    assert text.startswith("legoRayPage(")
    assert text.endswith(");\n")
    name, data = json.loads(f"[{text[len('legoRayPage(') : -3]}]")
    return name, data


def data_of(folder: Path) -> dict[str, Any]:
    return site_data(parse_uri(folder).open())


def entries(data: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The details of one kind, by key."""
    return {
        each["key"]: each
        for name, found in data.items()
        if name.rpartition("-")[0] == kind
        for each in found
    }


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_says_what_the_catalog_says(made: Path, tmp_path: Path) -> None:
    record = lego_ray.write_catalog_site(
        made / "catalog", output=tmp_path / "site", root=made / "library"
    )
    assert (record.adapters, record.merges, record.groupings, record.problems) == (10, 2, 0, 0)
    data = data_of(tmp_path / "site")
    adapters, merges = entries(data, "adapter"), entries(data, "merge")
    known = calls.sql(made / "catalog", "SELECT * FROM adapters").to_pylist()
    listed = data["adapters-0"]
    assert [row[2] for row in listed] == [
        row["uri"] for row in sorted(known, key=lambda row: row["uri"].rsplit("/")[-1].casefold())
    ]
    for row in known:
        [own] = [each for each in listed if each[2] == row["uri"]]
        assert own[7:9] == [row["status"], row["reason"]]
        detail = adapters[own[0]]
        assert detail["rows"][0][0] == row["uri"]
        if row["status"] != "ok":
            continue
        holding = calls.merges_with(made / "catalog", row["adapter_id"]).to_pylist()
        direct = [each for each in holding if each["depth"] == 1]
        assert sorted(each[0] for each in detail["merges"]) == sorted(
            each["merge_id"][:32] for each in direct
        )
    for merged in merges.values():
        told = calls.lineage(made / "catalog", merged["id"]).to_pylist()
        total = sum(row["weight"] for row in told)
        assert {row[0]: row[2:4] for row in merged["adapters"]} == {
            row["adapter_id"][:32]: [row["msus"], pytest.approx(row["weight"] / total, rel=1e-5)]
            for row in told
        }
    one, two = (next(m for m in merges.values() if m["name"] == n) for n in ("one", "two"))
    assert [each[:3] for each in one["into"]] == [[two["key"], "two", 1]]
    [from_one] = [row for row in two["adapters"] if row[5]]
    assert from_one[5] == [one["key"], "one", 1]
    assert from_one[0] == one["output"]
    assert adapters[one["output"]]["made"] == [[one["key"], "one", 1]]


def test_the_same_catalog_is_the_same_site_and_writes_nothing(made: Path, tmp_path: Path) -> None:
    first = lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "a")
    before = contents(tmp_path / "a")
    again = lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "a")
    assert (first.written, again.written, again.removed) == (first.files, 0, 0)
    assert contents(tmp_path / "a") == before
    lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "b")
    assert {k: v[0] for k, v in contents(tmp_path / "b").items()} == {
        k: v[0] for k, v in before.items()
    }


def test_a_changed_catalog_replaces_the_site_and_touches_nothing_of_others(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = shutil.copytree(made / "catalog", tmp_path / "catalog")
    site = tmp_path / "site"
    lego_ray.write_catalog_site(catalog, output=site)
    forged = "data/adapters-7.0123456789abcdef0123.js"
    theirs = ["notes.txt", "data/mine.js", "assets/logo.png", forged, "data/deep/x.js"]
    for name in theirs:
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text("mine")
    before = set(contents(site))
    lego_ray.scan(write_adapter(tmp_path / "zoo" / "new", seed=77), catalog=catalog)
    record = lego_ray.write_catalog_site(catalog, output=site)
    assert record.removed == 0, "who looks at the former site goes on doing so"
    assert set(contents(site)) > before
    assert any(row[1] == "new" for row in data_of(site)["adapters-0"])
    monkeypatch.setattr(site_files, "KEPT", timedelta(0))
    record = lego_ray.write_catalog_site(catalog, output=site)
    # The list, the details, the sizes of the tables, and the file that names them all.
    assert (record.written, record.removed) == (0, 4)
    left = set(contents(site))
    assert left >= set(theirs)
    assert len(left) == record.files + len(theirs)
    for name in theirs:
        assert (site / name).read_text() == "mine"


def test_the_index_comes_last(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    store_type = type(parse_uri(tmp_path / "site").open())
    create = store_type.create

    def watched(self: Any, key: str, data: bytes) -> None:
        create(self, key, data)
        written.append(key)

    monkeypatch.setattr(store_type, "create", watched)
    lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "site", check=False)
    assert written[-1] == "index.html"
    assert written.count("index.html") == 1


def test_what_is_no_site_is_left_as_it_is(made: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>mine")
    with pytest.raises(OutputExists, match="not a page of this command"):
        lego_ray.write_catalog_site(made / "catalog", output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    with pytest.raises(InvalidOption, match="inside a table"):
        lego_ray.write_catalog_site(made / "catalog", output=made / "catalog" / "merges" / "site")
    with pytest.raises(InvalidOption, match="cannot be written"):
        lego_ray.write_catalog_site(made / "catalog", output="hf://acme/site")
    with pytest.raises(CatalogNotFound):
        lego_ray.write_catalog_site(tmp_path / "none", output=tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_file_of_others_with_a_name_of_ours_is_an_error(made: Path, tmp_path: Path) -> None:
    lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "a", check=False)
    name = next(path.name for path in (tmp_path / "a" / "data").iterdir() if "merges" in path.name)
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "b" / "data" / name).write_text("mine")
    with pytest.raises(OutputExists, match="it has 4 bytes"):
        lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "b", check=False)
    assert not (tmp_path / "b" / "index.html").exists()


def test_a_catalog_of_scans_only_has_a_site(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path / "catalog"))
    catalog.append("adapters", [adapter(), refused()])
    record = lego_ray.write_catalog_site(catalog.uri, output=tmp_path / "site")
    assert (record.adapters, record.merges, record.problems) == (2, 0, None)
    data = data_of(tmp_path / "site")
    assert data["site"]["adapters"]["status"] == {"ok": 1, "refused": 1}
    assert data["health"]["check"] is None
    with pytest.raises(InvalidOption, match="nothing was merged"):
        lego_ray.write_catalog_site(catalog.uri, output=tmp_path / "site", root=tmp_path)


def test_problems_and_garbage_are_listed(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "root")
    # The copy's catalog still names the outputs it was copied from: no row refers to the copies.
    catalog = Catalog(str(root / "catalog"))
    catalog.append("merges", [merge(output_uri=str(root / "gone"), adapter_ids=["f" * 64])])
    record = lego_ray.write_catalog_site(
        catalog.uri, output=tmp_path / "site", root=root / "library"
    )
    assert record.problems
    data = data_of(tmp_path / "site")
    assert data["site"]["health"] == {"ok": False, "problems": record.problems}
    where = [problem[4] for problem in data["health"]["check"]["problems"]]
    assert str(root / "gone") in where
    assert data["health"]["garbage"]["root"] == str(root / "library")
    unknown = entries(data, "adapter")["f" * 32]
    assert (unknown["rows"], unknown["name"]) == ([], "f" * 12)


def test_groups_lead_to_merges_and_back(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path / "catalog"))
    ids = [c * 64 for c in "abc"]
    catalog.append("adapters", [adapter(adapter_id=i, uri=f"/zoo/{i[0]}") for i in ids])
    catalog.append("merges", [merge(name="help-1", adapter_ids=ids[:2])])
    members = [
        group(adapter_id=ids[0], merge_id="m" * 64, similarity=0.5),
        group(adapter_id=ids[1], merge_id="m" * 64, similarity=0.7),
    ]
    alone = group(
        adapter_id=ids[2], group_name=None, status="alone", similarity=None,
        nearest_group="help-1", nearest_similarity=0.125,
    )  # fmt: skip
    record_groups(catalog, [*members, alone])
    lego_ray.write_catalog_site(catalog.uri, output=tmp_path / "site", check=False)
    data = data_of(tmp_path / "site")
    assert [row[1:2] + row[3:] for row in data["groupings-0"]] == [["help", 1, 2, 1]]
    [grouping] = entries(data, "grouping").values()
    key = pages.key_of("m" * 64)
    assert grouping["groups"] == [["help-1", [key, "help-1", 1], 2, 0.6]]
    assert [row[1:] for row in grouping["alone"]] == [["c", "help-1", 0.125]]
    assert [row[4] for row in entries(data, "merge")[key]["adapters"]] == [0.5, 0.7]
    assert entries(data, "adapter")["c" * 32]["groups"][0][2:7] == [
        None,
        None,
        None,
        "help-1",
        0.125,
    ]


def test_trials_are_shown_where_the_catalog_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = (
        Column("study", pa.string(), "Which."),
        Column("score", pa.float64(), "How good.", True),
        Column("parameters", pa.map_(pa.string(), pa.string()), "With what.", True),
    )
    spec = TableSpec("trials", "One row for each trial.", columns)
    known = {**TABLES, "trials": spec}
    for module in (catalog_rows, catalog_tables, site_library):
        monkeypatch.setattr(module, "TABLES", known)
    catalog = Catalog(str(tmp_path / "catalog"))
    catalog.append("adapters", [adapter()])
    lego_ray.write_catalog_site(catalog.uri, output=tmp_path / "none", check=False)
    assert data_of(tmp_path / "none")["site"]["trials"] is None
    trials = [
        {"study": EVIL, "score": float("nan"), "parameters": {"rank": "8"}},
        {"study": "b", "score": 0.5, "parameters": None},
    ]
    catalog.append("trials", trials)
    record = lego_ray.write_catalog_site(catalog.uri, output=tmp_path / "site", check=False)
    assert record.trials == 2
    data = data_of(tmp_path / "site")
    assert data["site"]["trials"] == {
        "n": 2, "lists": 1, "columns": ["study", "score", "parameters"],
    }  # fmt: skip
    assert data["trials-0"] == [[EVIL, None, '{"rank": "8"}'], ["b", 0.5, None]]


def test_words_of_others_are_never_keys_nor_markup(tmp_path: Path) -> None:
    lego_ray.write_catalog_site(hostile_catalog(tmp_path), output=tmp_path / "site", check=False)
    for path in (tmp_path / "site" / "data").iterdir():
        data = path.read_bytes()
        assert data.isascii()
        assert b"<" not in data
        assert b'"__proto__":' not in data

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    pages_of = data_of(tmp_path / "site")
    assert not keys(list(pages_of.values())) & set(HOSTILE)
    assert "\u202e" not in json.dumps(pages_of, ensure_ascii=False)


def test_details_are_found_by_their_key_and_files_stay_small(tmp_path: Path) -> None:
    lego_ray.write_catalog_site(
        large_catalog(tmp_path, 3000), output=tmp_path / "site", check=False
    )
    data = data_of(tmp_path / "site")
    n_buckets = data["site"]["adapters"]["details"]
    assert n_buckets > 1
    found = entries(data, "adapter")
    assert len(found) == 3030
    for key in found:
        assert key in {each["key"] for each in data[f"adapter-{pages.bucket_of(key, n_buckets)}"]}
    assert all(
        len(data[name]) <= pages.ROWS for name in data if name.startswith(("adapters-", "merges-"))
    )
    facets = data["site"]["adapters"]["facets"]
    assert len(facets["counts"]["tag"]) == 200
    assert facets["more"]["tag"] == 3004 - 200
    assert facets["counts"]["rank"] == [[4, 1000], [8, 1000], [16, 1000]]


def test_shares_are_the_same_in_any_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lego_ray.catalog import totals

    catalog = Catalog(str(tmp_path / "catalog"))
    merges = [merge(merge_id=c * 64, name=c, n_msus=n) for c, n in (("m", 5), ("n", None))]
    catalog.append("merges", merges)
    for row in merges:
        sites, msus = details(row["merge_id"])
        catalog.append("merge_sites", sites)
        catalog.append("msus", msus)
    [whole] = shares_by_merge(catalog, merges)
    monkeypatch.setattr(totals, "BATCH_ROWS", 1)
    parts = list(shares_by_merge(catalog, merges))
    assert len(parts) == 2
    assert parts[0] | parts[1] == whole
    assert totals.site_totals(catalog, merges)["m" * 64] == {
        "error": 0.5, "error_max": 0.5, "norm_ratio": pytest.approx(0.9),
    }  # fmt: skip


def test_the_command_says_what_it_wrote(made: Path, tmp_path: Path) -> None:
    words = ["catalog", "site", "--catalog", str(made / "catalog"), "--output", str(tmp_path / "s")]
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 0, found.output
    assert f"site     {tmp_path / 's' / 'index.html'}" in found.output
    assert "shows    10 adapters, 2 merges, 0 groupings" in found.output
    assert "check    ok" in found.output
    record = json.loads(CliRunner().invoke(cli, [*words, "--no-check", "--json"]).stdout)
    assert (record["problems"], record["index"]) == (None, str(tmp_path / "s" / "index.html"))
    none = CliRunner().invoke(cli, [*words[:-1], "hf://a/b"])
    assert isinstance(none.exception, InvalidOption)


def test_a_store_that_is_away_is_a_note_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lego_ray.api import catalog_site
    from lego_ray.errors import StoreUnavailable

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("s3://library", "the connection was refused")

    monkeypatch.setattr(catalog_site, "check_catalog", away)
    catalog = Catalog(str(tmp_path / "catalog"))
    catalog.append("merges", [merge()])
    record = lego_ray.write_catalog_site(catalog.uri, output=tmp_path / "site")
    assert record.problems is None
    assert record.warnings == (
        "The catalog was not checked: s3://library: the connection was refused.",
    )
    assert data_of(tmp_path / "site")["health"]["notes"] == list(record.warnings)


@pytest.mark.s3
def test_it_is_written_to_s3_and_from_a_catalog_there(
    s3_server: Any, s3_bucket: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.upload(made / "catalog", s3_bucket, "catalog/")
    output = f"s3://{s3_bucket}/site"
    record = lego_ray.write_catalog_site(f"s3://{s3_bucket}/catalog", output=output)
    assert record.index == f"{output}/index.html"
    again = lego_ray.write_catalog_site(f"s3://{s3_bucket}/catalog", output=output)
    assert (again.written, again.files) == (0, record.files)
    lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "site")
    there = site_data(parse_uri(output).open())
    here = data_of(tmp_path / "site")
    assert {k: v for k, v in there.items() if k not in ("site", "health")} == {
        k: v for k, v in here.items() if k not in ("site", "health")
    }


def test_a_record_is_made_of_plain_values(made: Path, tmp_path: Path) -> None:
    record = lego_ray.write_catalog_site(made / "catalog", output=tmp_path / "site", check=False)
    assert json.loads(json.dumps(record)) == record.as_json()
    assert "10 adapters, 2 merges" in repr(record)
    assert replace(record, files=1).files == 1
