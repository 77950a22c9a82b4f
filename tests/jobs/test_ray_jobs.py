"""The entry points as Ray jobs: submitted to a real head through its dashboard, logs and status read.

Needs `ray[default]`, which has the dashboard; `make test-cluster` installs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lego_ray
from tests.jobs.ray_head import NEEDS_DASHBOARD, Head, ray_head
from tests.zoo import weights_of, write_adapter, write_zoo

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), NEEDS_DASHBOARD]
RECIPE = """
sources: [{zoo}]
catalog: {catalog}
output: {library}
merges: [{{name: all, rank: 4, options: {{n_init: 2}}}}]
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(2, {}) as found:
        yield found


def test_a_catalog_a_merge_and_a_library_are_made_by_jobs(head: Head, tmp_path: Path) -> None:
    zoo, catalog = write_zoo(tmp_path / "zoo", 3), tmp_path / "catalog"

    entry: tuple[object, ...] = ("-m", "lego_ray.jobs.build_catalog", zoo, "--catalog", catalog)
    assert head.submit("scan", *entry), head.log("scan")
    assert head.status("scan") == "succeeded"
    assert head.record("scan")["new"] == 3

    flags = ("--rank", 4, "--n-init", 2, "--output", tmp_path / "merged", "--catalog", catalog)
    entry = ("-m", "lego_ray.jobs.merge_zoo", zoo, *flags)
    assert head.submit("merge", *entry), head.log("merge")
    assert head.status("merge") == "succeeded"
    record = head.record("merge")
    assert record["status"] == "published"
    assert f"planned {record['merge_id'][:12]}" in head.log("merge")
    lego_ray.merge(zoo, rank=4, n_init=2, output=tmp_path / "inline/merged", runner="inline")
    assert weights_of(tmp_path / "merged") == weights_of(tmp_path / "inline/merged")

    recipe = tmp_path / "library.yaml"
    places = {"zoo": zoo, "catalog": catalog, "library": tmp_path / "library"}
    recipe.write_text(RECIPE.format(**places))
    entry = ("-m", "lego_ray.jobs.refresh_library", recipe)
    assert head.submit("first", *entry), head.log("first")
    assert head.record("first")["status"] == "refreshed"
    assert head.submit("again", *entry), head.log("again")
    assert head.record("again")["status"] == "unchanged"
    write_adapter(zoo / "newcomer", seed=77)
    # As with the wheel alone: the command line is an entry point like any other.
    entry = ("-m", "lego_ray", "refresh", recipe, "--address", "auto", "--json")
    assert head.submit("newcomer", *entry), head.log("newcomer")
    record = head.record("newcomer")
    assert [m["version"] for m in record["merges"]] == [2]
    lego_ray.merge(zoo, rank=4, n_init=2, output=tmp_path / "all", runner="inline")
    assert weights_of(record["merges"][0]["output"]) == weights_of(tmp_path / "all")


def test_a_job_that_is_refused_has_failed_and_says_why(head: Head, tmp_path: Path) -> None:
    entry = ("-m", "lego_ray.jobs.merge_zoo", tmp_path / "none", "--rank", 4)
    assert not head.submit("bad", *entry, "--output", tmp_path / "merged")
    assert head.status("bad") == "failed"
    assert f"ObjectNotFound: {tmp_path / 'none'}" in head.log("bad")
    assert not (tmp_path / "merged").exists()
