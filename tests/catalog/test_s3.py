"""The catalog on a real S3 server."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs.soak.fault_proxy import fault_proxy
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.ancestry import lineage
from lego_ray.catalog.history import show
from lego_ray.catalog.holders import merges_with
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.opening import check_before_writing, open_catalog
from lego_ray.catalog.query import sql
from lego_ray.catalog.same_place import check_same_place
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.migrate import migrate
from lego_ray.errors import (
    AccessDenied,
    CatalogError,
    CatalogNotFound,
    CatalogVersionMismatch,
    ObjectNotFound,
    StoreUnavailable,
    UnsupportedUri,
)
from lego_ray.storage.open import open_store
from tests.catalog.sample import adapter, details, merge, msu, refused
from tests.catalog.stores import s3_options
from tests.catalog.version_one import write_table

if TYPE_CHECKING:
    from tests.ceph_gateway import S3Server

pytestmark = pytest.mark.s3

N_PROCESSES = 4
N_APPENDS = 12
N_SPOILT = 2


@pytest.fixture
def catalog(s3_server: S3Server, s3_bucket: str) -> Catalog:
    return Catalog(f"s3://{s3_bucket}/team/catalog", s3_options(s3_server))


@pytest.mark.parametrize(
    "name",
    ["hash#x", "qu?x", "c[1]", "c^|x", "a\\b", "50%", "c at", "ü", "p+q", "a&b=c", "x~`{}<>"],
)
def test_a_path_is_written_as_it_is_given(s3_env: S3Server, s3_bucket: str, name: str) -> None:
    open_catalog(f"s3://{s3_bucket}/hash").append("merges", [merge()])
    catalog = open_catalog(f"s3://{s3_bucket}/{name}")
    check_before_writing(catalog)
    catalog.append("merges", [merge()])
    catalog.append("merges", [merge(merge_id="n" * 64, version=2)])
    assert catalog.read("merges").num_rows == 2
    assert sql(catalog, "SELECT count(*) AS n FROM merges").to_pylist() == [{"n": 2}]
    assert {info.key.split("/")[0] for info in open_store(f"s3://{s3_bucket}").list()} == {
        name,
        "hash",
    }


@pytest.mark.parametrize("name", ["a%20b", "a\tb"])
def test_a_path_that_would_be_another_is_refused(
    s3_env: S3Server, s3_bucket: str, name: str
) -> None:
    catalog = open_catalog(f"s3://{s3_bucket}/{name}")
    with pytest.raises(UnsupportedUri, match="a catalog's path"):
        check_before_writing(catalog)
    assert list(open_store(f"s3://{s3_bucket}").list()) == []


def test_a_catalog_that_would_be_written_elsewhere_is_found(
    s3_env: S3Server, s3_bucket: str
) -> None:
    store = open_store(f"s3://{s3_bucket}/c")
    # All that is sent there goes to another bucket.
    elsewhere = f"{s3_env.endpoint_url}/{s3_env.bucket()}"
    with pytest.raises(CatalogError, match="writes to another place"):
        check_same_place(store, s3_options(s3_env, AWS_ENDPOINT_URL=elsewhere))
    check_same_place(store, s3_options(s3_env))
    assert list(store.list()) == []


def append_many(catalog: Catalog, worker: int) -> None:
    for i in range(N_APPENDS):
        catalog.append("msus", [msu(cluster=worker, rank_index=i), msu(cluster=-1, rank_index=i)])


def test_processes_that_append_at_once_lose_and_double_nothing(catalog: Catalog) -> None:
    # The table is not there yet, so they race to make it as well.
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=append_many, args=(catalog, worker)) for worker in range(N_PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * N_PROCESSES

    catalog.append("merges", [merge()])
    rows = catalog.read("msus", ["cluster", "rank_index"]).to_pylist()
    found = Counter((row["cluster"], row["rank_index"]) for row in rows)
    wanted = Counter({(w, i): 1 for w in range(N_PROCESSES) for i in range(N_APPENDS)})
    wanted.update({(-1, i): N_PROCESSES for i in range(N_APPENDS)})
    assert found == wanted


def test_the_whole_catalog_works_as_on_disk(s3_server: S3Server, s3_bucket: str) -> None:
    catalog = Catalog(f"s3://{s3_bucket}/a team/catalog", s3_options(s3_server))
    with pytest.raises(CatalogNotFound):
        catalog.read("merges")
    assert record_adapters(catalog, [adapter(), refused()]) == 2
    assert record_adapters(catalog, [adapter(), refused(reason="other")]) == 1
    for _ in range(2):
        append_merge(catalog, merge(version=None), *details())
    assert sql(catalog, "SELECT count(*) AS n FROM msus").to_pylist() == [{"n": 5}]
    assert show(catalog, "support").summary()["sites"] == 2
    assert lineage(catalog, "support")["uri"].to_pylist() == ["/zoo/a", None]
    assert merges_with(catalog, "/zoo/a")["name"].to_pylist() == ["support"]


def test_a_catalog_of_version_one_is_migrated(catalog: Catalog) -> None:
    options = dict(catalog.storage_options)
    write_table(catalog.uri, "merges", [merge()], [("m" * 64, 1)], options)
    with pytest.raises(CatalogVersionMismatch):
        append_merge(catalog, merge(merge_id="n" * 64, version=None), *details("n" * 64))
    assert migrate(catalog)[0].version_before == 1
    append_merge(catalog, merge(merge_id="n" * 64, version=None), *details("n" * 64))
    assert sorted(catalog.read("merges")["n_msus"].to_pylist(), key=str) == [5, None]


def test_a_wrong_secret_is_denied(s3_server: S3Server, s3_bucket: str) -> None:
    catalog = Catalog(f"s3://{s3_bucket}/c", s3_options(s3_server, AWS_SECRET_ACCESS_KEY="wrong"))
    for touch in (lambda: catalog.read("merges"), lambda: catalog.append("merges", [merge()])):
        with pytest.raises(AccessDenied):
            touch()


def test_a_bucket_that_is_not_there_is_said_so(s3_server: S3Server) -> None:
    catalog = Catalog("s3://no-such-bucket-here/c", s3_options(s3_server))
    with pytest.raises(ObjectNotFound, match="bucket"):
        catalog.append("merges", [merge()])


def test_a_server_that_is_not_there_is_unavailable(s3_server: S3Server) -> None:
    # Port 9 is the discard service, which nobody runs.
    gone = s3_options(s3_server, AWS_ENDPOINT_URL="http://127.0.0.1:9", max_retries="1")
    with pytest.raises(StoreUnavailable):
        Catalog("s3://bucket/c", gone).append("merges", [merge()])


def test_answers_that_are_cut_short_are_asked_for_again(
    s3_server: S3Server, s3_bucket: str
) -> None:
    uri = f"s3://{s3_bucket}/c"
    quiet = Catalog(uri, s3_options(s3_server))
    append_merge(quiet, merge(), *details())
    wanted = quiet.read("msus").to_pylist()
    rates = {"truncated": 0.04, "lost_answer": 0.02}
    with fault_proxy(s3_server.endpoint_url, seed=5, rates=rates) as (url, proxied):
        catalog = Catalog(uri, s3_options(s3_server, AWS_ENDPOINT_URL=url))
        for i in range(N_SPOILT):
            assert catalog.read("msus").to_pylist() == wanted
            assert sql(catalog, "SELECT count(*) AS n FROM msus").to_pylist() == [
                {"n": len(wanted)}
            ]
            append_merge(catalog, merge(merge_id=f"{i}" * 64, version=None), *details(f"{i}" * 64))
            wanted = quiet.read("msus").to_pylist()
    assert proxied[0].faults["truncated"] > N_SPOILT


def test_credentials_that_change_while_it_is_held_are_taken(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a role's are, which expire within a run of hours.
    given = tmp_path / "given.json"

    def give(secret: str) -> None:
        keys = {"AccessKeyId": s3_server.access_key, "SecretAccessKey": secret}
        soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
        given.write_text(json.dumps({"Version": 1, "Expiration": soon, **keys}))

    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = us-east-1\ncredential_process = cat {given}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    give("expired")
    catalog = open_catalog(f"s3://{s3_bucket}/c")
    with pytest.raises(AccessDenied):
        catalog.append("merges", [merge()])
    give(s3_server.secret_key)
    catalog.append("merges", [merge()])
    assert pickle.loads(pickle.dumps(catalog)).read("merges").num_rows == 1
    assert s3_server.secret_key not in repr(catalog)
