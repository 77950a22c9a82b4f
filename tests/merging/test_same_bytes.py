"""An adapter is its content: written again or copied it is the same, changed anywhere it is another."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.audit.check import check_catalog
from lego_ray.errors import InvalidOption, OutputExists, VerificationFailed
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.checkpoints.run_folder import READINGS_FOLDER
from lego_ray.planning import planner
from lego_ray.planning.recipe import Recipe
from lego_ray.runners.inline import InlineRunner
from lego_ray.sources import contents
from lego_ray.sources.headers import scan_sources
from lego_ray.storage.open import open_store
from tests.merging.same_bytes import (
    N_BYTES,
    RUN,
    SITES,
    change_middle,
    merged,
    rows,
    touch,
    weights_in,
    wide_zoo,
)
from tests.storage.fake_hub import fake_hub
from tests.zoo import WEIGHTS, files_of, weights_of, write_adapter


def library(root: Path, zoo: Path, **entry: Any) -> Path:
    place = root / "library.yaml"
    fields = {
        "sources": [str(zoo)],
        "catalog": str(root / "catalog"),
        "output": str(root / "library"),
        "merges": [{"name": "m", "rank": 2, "options": {"n_init": 1}, **entry}],
    }
    place.write_text(json.dumps(fields))
    return place


def refreshed(recipe: Path) -> dict[str, Any]:
    return lego_ray.refresh(recipe, runner="inline")


def plan_id(zoo: Path, **recipe: Any) -> str:
    return str(lego_ray.plan(zoo, **{"rank": 2, "n_init": 1, "name": "m", **recipe}).digest)


def test_the_same_bytes_at_another_time_and_place_are_the_same_plan(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    first = plan_id(zoo)
    touch(zoo)
    assert plan_id(zoo) == first
    assert plan_id(Path(shutil.copytree(zoo, tmp_path / "copy"))) == first
    change_middle(weights_in(zoo))
    assert plan_id(zoo) == first  # no record says what it was before


@pytest.mark.parametrize("with_catalog", [False, True], ids=["alone", "catalog"])
def test_a_touched_zoo_is_merged_already(with_catalog: bool, tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    more = {"catalog": tmp_path / "catalog"} if with_catalog else {}
    first = merged(zoo, tmp_path / "out", **more)
    before = files_of(tmp_path / "out")
    touch(zoo)
    again = merged(zoo, tmp_path / "out", **more)
    assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
    assert files_of(tmp_path / "out") == before
    assert again["bytes_read"] > 2 * N_BYTES  # each was read whole, once
    if with_catalog:
        assert lego_ray.catalog.list_merges(tmp_path / "catalog").num_rows == 1


def test_a_change_in_the_middle_is_another_adapter_without_a_catalog(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    first = merged(zoo, tmp_path / "out")
    before = change_middle(weights_in(zoo))
    with pytest.raises(OutputExists, match="the merge of another plan"):
        merged(zoo, tmp_path / "out")
    weights_in(zoo).write_bytes(before)
    assert merged(zoo, tmp_path / "out")["status"] == "already published"
    assert merged(zoo, tmp_path / "out")["merge_id"] == first["merge_id"]


def test_a_changed_adapter_keeps_its_own_identity(tmp_path: Path) -> None:
    """X, its middle changed to Y, Y again, Y touched, X put back; with a catalog."""
    zoo, catalog = wide_zoo(tmp_path / "zoo"), tmp_path / "catalog"
    first = merged(zoo, tmp_path / "x", catalog=catalog)
    known = {row["uri"]: row["adapter_id"] for row in rows(catalog)}
    before = change_middle(weights_in(zoo))
    other = merged(zoo, tmp_path / "y", catalog=catalog)
    assert other["status"] == "published"
    assert other["merge_id"] != first["merge_id"]
    assert weights_of(tmp_path / "x") != weights_of(tmp_path / "y")
    assert len(rows(catalog)) == 3
    again = merged(zoo, tmp_path / "y", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", other["merge_id"])
    assert again["bytes_read"] < 2 * N_BYTES  # the mark is known: headers and samples only
    touch(weights_in(zoo).parent)
    assert lego_ray.scan(zoo, catalog=catalog)["new"] == 0
    assert len(rows(catalog)) == 3
    again = merged(zoo, tmp_path / "y", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", other["merge_id"])
    assert again["bytes_read"] < 2 * N_BYTES  # the scan wrote the new mark down
    weights_in(zoo).write_bytes(before)
    back = merged(zoo, tmp_path / "x", catalog=catalog)
    assert (back["status"], back["merge_id"]) == ("already published", first["merge_id"])
    found = lego_ray.scan(zoo, catalog=catalog)
    assert {a["uri"]: a["adapter_id"] for a in found["adapters"]} == known
    assert check_catalog(catalog)["ok"]


def replaced_unseen(path: Path, how: str) -> None:
    """Changes a file in its middle and leaves its size and its times of writing as they were."""
    time.sleep(0.02)  # a file system's clock may go in steps of some milliseconds
    before = path.stat()
    change_middle(path)
    if how == "renamed":
        other = path.with_suffix(".new")
        other.write_bytes(path.read_bytes())
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("how", ["in place", "renamed"])
def test_a_file_of_the_same_size_and_time_is_another_adapter(how: str, tmp_path: Path) -> None:
    """As archives, tools that put times back, and copies with their times leave them."""
    zoo, catalog = wide_zoo(tmp_path / "zoo"), tmp_path / "catalog"
    first = merged(zoo, tmp_path / "x", catalog=catalog)
    merged(zoo, tmp_path / "alone")
    replaced_unseen(weights_in(zoo), how)
    with pytest.raises(OutputExists, match="the merge of another plan"):
        merged(zoo, tmp_path / "alone")
    with pytest.raises(OutputExists, match="the merge of another plan"):
        merged(zoo, tmp_path / "x", catalog=catalog)
    other = merged(zoo, tmp_path / "y", catalog=catalog)
    assert other["merge_id"] != first["merge_id"]
    assert weights_of(tmp_path / "x") != weights_of(tmp_path / "y")
    assert len(rows(catalog)) == 3
    assert lego_ray.catalog.list_merges(catalog).num_rows == 2
    assert check_catalog(catalog)["ok"]
    again = merged(zoo, tmp_path / "y", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", other["merge_id"])
    assert again["bytes_read"] < 2 * N_BYTES


@pytest.mark.parametrize("how", ["in place", "renamed"])
def test_a_library_makes_a_version_of_a_file_of_the_same_size_and_time(
    how: str, tmp_path: Path
) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    recipe = library(tmp_path, zoo)
    [first] = refreshed(recipe)["merges"]
    assert refreshed(recipe)["status"] == "unchanged"
    replaced_unseen(weights_in(zoo), how)
    told = refreshed(recipe)
    assert told["status"] == "refreshed"
    assert told["merges"][0]["merge_id"] != first["merge_id"]
    assert refreshed(recipe)["status"] == "unchanged"


def test_new_rights_are_looked_into_once(tmp_path: Path) -> None:
    zoo, catalog = wide_zoo(tmp_path / "zoo"), tmp_path / "catalog"
    first = merged(zoo, tmp_path / "x", catalog=catalog)
    for path in zoo.rglob("*.safetensors"):
        path.chmod(0o600)
    again = merged(zoo, tmp_path / "x", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
    assert again["bytes_read"] > 2 * N_BYTES
    assert lego_ray.scan(zoo, catalog=catalog)["new"] == 0
    again = merged(zoo, tmp_path / "x", catalog=catalog)
    assert again["bytes_read"] < 2 * N_BYTES
    assert len(rows(catalog)) == 2


def test_an_update_sees_a_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    merged(zoo, tmp_path / "x", updatable=True)
    replaced_unseen(weights_in(zoo), "renamed")
    with pytest.raises(InvalidOption, match="it was changed since"):
        lego_ray.update(
            tmp_path / "x", add=weights_in(zoo).parent, output=tmp_path / "y", runner="inline"
        )


def test_a_copy_of_a_changed_adapter_is_that_one(tmp_path: Path) -> None:
    zoo, catalog = wide_zoo(tmp_path / "zoo"), tmp_path / "catalog"
    merged(zoo, tmp_path / "x", catalog=catalog)
    change_middle(weights_in(zoo))
    other = merged(zoo, tmp_path / "y", catalog=catalog)
    copy = Path(shutil.copytree(zoo, tmp_path / "copy"))
    again = merged(copy, tmp_path / "y", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", other["merge_id"])


def test_a_scan_doubles_no_row_of_a_touched_adapter_and_adds_one_of_a_changed(
    tmp_path: Path,
) -> None:
    zoo, catalog = wide_zoo(tmp_path / "zoo"), tmp_path / "catalog"
    merged(zoo, tmp_path / "x", catalog=catalog)
    first = rows(catalog)
    assert all(row["mark"] and row["content_sha256"] for row in first)
    touch(zoo)
    told = lego_ray.scan(zoo, catalog=catalog)
    assert (told["new"], told["bytes_read"] > 2 * N_BYTES) == (0, True)
    looks = {"mark": None, "content_sha256": None}
    assert [{**row, **looks} for row in rows(catalog)] == [{**row, **looks} for row in first]
    told = lego_ray.scan(zoo, catalog=catalog)
    assert (told["new"], told["bytes_read"] < 2 * N_BYTES) == (0, True)
    change_middle(weights_in(zoo))
    assert lego_ray.scan(zoo, catalog=catalog)["new"] == 1
    assert [row["uri"] for row in rows(catalog)] == sorted(
        [str(zoo / "a0"), str(zoo / "a0"), str(zoo / "a1")]
    )
    assert lego_ray.scan(zoo, catalog=catalog)["new"] == 0


def test_a_scan_alone_binds_no_content(tmp_path: Path) -> None:
    """Nothing was read whole, so there is nothing that a changed file could be taken for."""
    zoo, catalog = wide_zoo(tmp_path / "zoo"), tmp_path / "catalog"
    assert lego_ray.scan(zoo, catalog=catalog)["new"] == 2
    change_middle(weights_in(zoo))
    assert lego_ray.scan(zoo, catalog=catalog)["new"] == 0
    merged(zoo, tmp_path / "y", catalog=catalog)
    assert lego_ray.verify(tmp_path / "y", sources=zoo)["ok"]
    assert [bool(row["content_sha256"]) for row in rows(catalog)] == [True, True]


def published(library: Path) -> dict[str, tuple[int, bytes]]:
    """The library's files, without the headers that a refresh keeps: these have the files' times."""
    return {k: v for k, v in files_of(library).items() if not k.startswith(READINGS_FOLDER)}


def test_a_refresh_after_a_touch_changes_nothing(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    recipe = library(tmp_path, zoo)
    first = refreshed(recipe)
    before = published(tmp_path / "library")
    touch(zoo)
    again = refreshed(recipe)
    assert (again["status"], again["new"]) == ("unchanged", 0)
    assert again["merges"][0]["merge_id"] == first["merges"][0]["merge_id"]
    assert published(tmp_path / "library") == before
    assert again["bytes_read"] > 2 * N_BYTES
    version = lego_ray.catalog.list_merges(tmp_path / "catalog").num_rows
    third = refreshed(recipe)
    assert (third["status"], third["bytes_read"] < 2 * N_BYTES) == ("unchanged", True)
    assert lego_ray.catalog.list_merges(tmp_path / "catalog").num_rows == version == 1


def test_a_refresh_finds_a_change_in_the_middle_and_goes_back(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    recipe = library(tmp_path, zoo)
    [first] = refreshed(recipe)["merges"]
    before = change_middle(weights_in(zoo))
    told = refreshed(recipe)
    [other] = told["merges"]
    assert (told["status"], told["new"], other["version"]) == ("refreshed", 1, 2)
    assert other["merge_id"] != first["merge_id"]
    weights_in(zoo).write_bytes(before)
    [back] = refreshed(recipe)["merges"]
    assert (back["merge_id"], back["version"]) == (first["merge_id"], 3)
    assert check_catalog(tmp_path / "catalog", deep=True)["ok"]


def test_a_build_knows_its_merges_with_and_without_a_catalog(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo", 3)
    recipe = library(tmp_path, zoo, groups=1)
    fields = json.loads(recipe.read_text())
    alone = tmp_path / "alone.yaml"
    fields |= {"output": str(tmp_path / "alone")}
    alone.write_text(json.dumps({k: v for k, v in fields.items() if k != "catalog"}))
    for each in (recipe, alone):
        first = lego_ray.build(each, runner="inline")
        touch(zoo)
        again = lego_ray.build(each, runner="inline")
        assert {m["status"] for m in again["merges"]} == {"already published"}
        assert [m["merge_id"] for m in again["merges"]] == [m["merge_id"] for m in first["merges"]]
    change_middle(weights_in(zoo))
    for each in (recipe, alone):
        with pytest.raises(OutputExists, match="the merge of another plan"):
            lego_ray.build(each, runner="inline")


def test_a_cut_short_refresh_is_not_taken_for_one_of_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after it published and before it recorded; then the middle of an adapter changes."""
    zoo = wide_zoo(tmp_path / "zoo")
    recipe = library(tmp_path, zoo)

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lego_ray.merging.finish._record", killed)
        with pytest.raises(KeyboardInterrupt):
            refreshed(recipe)
    change_middle(weights_in(zoo))
    told = refreshed(recipe)
    assert told["status"] == "refreshed"
    assert len(list((tmp_path / "library" / "m").iterdir())) == 2
    assert lego_ray.verify(told["merges"][0]["output"], sources=zoo)["ok"]


@pytest.mark.parametrize("change", [touch, None], ids=["touched", "changed"])
def test_finished_tasks_count_for_the_same_bytes_only(change: Any, tmp_path: Path) -> None:
    sites = tuple(type(SITES[0])(f"layers.{i}.q_proj", (4096,), 4096) for i in range(3))
    zoo = tmp_path / "zoo"
    for seed in (1, 2):
        write_adapter(zoo / f"a{seed}", seed=seed, sites=sites, rank=8)
    whole = lego_ray.plan(zoo, rank=2, n_init=1)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)

    class Stopped(InlineRunner):
        def run(self, tasks: Any) -> Any:
            for number, result in enumerate(super().run(tasks)):
                yield result
                if number == 1:
                    raise KeyboardInterrupt

    more = {"memory_budget": budget, "runner": Stopped()}
    with pytest.raises(KeyboardInterrupt):
        merged(zoo, tmp_path / "out", **more)
    if change:
        change(zoo)
    else:
        change_middle(zoo / "a1" / "adapter_model.safetensors")
    ended = merged(zoo, tmp_path / "out", memory_budget=budget)
    assert ended["resumed_sites"] == (2 if change else 1)
    merged(zoo, tmp_path / "wanted", memory_budget=budget)
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "wanted")


def test_a_publish_cut_short_is_finished_after_a_touch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    out = tmp_path / "out"
    merged(zoo, out, updatable=True)
    wanted = files_of(out)
    for name in ("adapter_config.json", "README.md"):
        (out / name).unlink()
    copy = Path(shutil.copytree(zoo, tmp_path / "copy"))
    touch(copy)
    assert merged(copy, out, updatable=True)["status"] == "published"
    assert {name: data for name, (_, data) in files_of(out).items()} == {
        name: data for name, (_, data) in wanted.items()
    }


def test_an_update_cut_short_is_finished_after_a_copy(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    new = write_adapter(tmp_path / "new" / "n", seed=9, sites=SITES, rank=8)
    merged(zoo, tmp_path / "m", updatable=True)
    here: dict[str, Any] = {"runner": "inline", "catalog": tmp_path / "catalog"}
    lego_ray.update(tmp_path / "m", add=new, **here)
    wanted = {name: data for name, (_, data) in files_of(tmp_path / "m-v2").items()}
    (tmp_path / "m-v2" / "adapter_config.json").unlink()
    copy = Path(shutil.copytree(new, tmp_path / "copy" / "n"))
    touch(copy)
    assert lego_ray.update(tmp_path / "m", add=copy, **here)["status"] == "published"
    assert {name: data for name, (_, data) in files_of(tmp_path / "m-v2").items()} == wanted


def test_an_update_knows_adapters_by_content(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo", 3)
    run: dict[str, Any] = {"runner": "inline"}
    merged(zoo, tmp_path / "m", updatable=True)
    touch(zoo)
    told = lego_ray.update(tmp_path / "m", remove="a2", **run)
    assert told["status"] == "published"
    touch(zoo)
    again = lego_ray.update(tmp_path / "m", remove="a2", **run)
    assert (again["status"], again["merge_id"]) == ("already published", told["merge_id"])
    copy = Path(shutil.copytree(zoo / "a0", tmp_path / "a0-copy"))
    with pytest.raises(InvalidOption, match="already, as"):
        lego_ray.update(tmp_path / "m-v2", add=copy, **run)
    back = lego_ray.update(tmp_path / "m-v2", add=zoo / "a2", **run)
    assert weights_of(tmp_path / "m-v3") == weights_of(tmp_path / "m")
    assert back["status"] == "published"
    change_middle(weights_in(zoo, "a1"))
    for remove in ("a1",):
        with pytest.raises(VerificationFailed, match="tensors"):
            lego_ray.update(tmp_path / "m", remove=remove, output=tmp_path / "o", **run)
    with pytest.raises(InvalidOption, match="was changed since"):
        lego_ray.update(tmp_path / "m", add=zoo / "a1", **run)
    change_middle(copy / "adapter_model.safetensors")
    added = lego_ray.update(tmp_path / "m", add=copy, output=tmp_path / "plus", **run)
    assert len(set(source_ids(tmp_path / "plus"))) == 4
    assert added["added"] == [str(copy)]
    refit = lego_ray.update(tmp_path / "m", refit=True, output=tmp_path / "refit", **run)
    assert refit["status"] == "published"
    assert set(source_ids(tmp_path / "refit")) != set(source_ids(tmp_path / "m"))


def source_ids(output: Path) -> list[str]:
    manifest = json.loads((output / "lego_ray_manifest.json").read_text())
    return [source["adapter_id"] for source in manifest["sources"]]


def test_two_adapters_alike_but_for_the_middle_are_told_apart(tmp_path: Path) -> None:
    zoo, catalog = wide_zoo(tmp_path / "zoo", 1), tmp_path / "catalog"
    shutil.copytree(zoo / "a0", zoo / "b0")
    change_middle(weights_in(zoo, "b0"))
    found = lego_ray.scan(zoo)["adapters"]
    assert len({a["adapter_id"] for a in found}) == 2
    first = merged(zoo, tmp_path / "out", catalog=catalog)
    assert not any("the same content" in warning for warning in first["warnings"])
    ids = lego_ray.catalog.sql(catalog, "SELECT DISTINCT adapter_id FROM msus")
    assert ids.num_rows == 2
    lineage = lego_ray.catalog.lineage(catalog, "m").to_pylist()
    assert sorted(row["uri"] for row in lineage) == [str(zoo / "a0"), str(zoo / "b0")]
    assert lego_ray.verify(tmp_path / "out", sources=zoo)["ok"]
    touch(zoo)
    assert merged(zoo, tmp_path / "out", catalog=catalog)["status"] == "already published"
    (zoo / "b0").rename(zoo / "c0")
    (zoo / "a0").rename(zoo / "b0")
    again = merged(zoo, tmp_path / "out", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
    assert lego_ray.verify(tmp_path / "out", sources=zoo)["ok"]


def test_two_copies_are_one_content_and_each_merged(tmp_path: Path) -> None:
    zoo = wide_zoo(tmp_path / "zoo", 1)
    shutil.copytree(zoo / "a0", zoo / "b0")
    told = merged(zoo, tmp_path / "out")
    assert any("have the same content" in warning for warning in told["warnings"])
    assert len(set(source_ids(tmp_path / "out"))) == 1


def test_a_quarantined_adapter_that_is_mended_in_the_middle_is_merged(tmp_path: Path) -> None:
    zoo, catalog = wide_zoo(tmp_path / "zoo", 3), tmp_path / "catalog"
    good = change_middle(weights_in(zoo), b"\x00\x00\xc0\x7f" * 4)  # NaN
    first = merged(zoo, tmp_path / "out", catalog=catalog)
    assert [r["adapter"] for r in first["refused"]] == [str(zoo / "a0")]
    touch(zoo)
    again = merged(zoo, tmp_path / "out", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
    weights_in(zoo).write_bytes(good)
    with pytest.raises(OutputExists, match="the merge of another plan"):
        merged(zoo, tmp_path / "out")
    fixed = merged(zoo, tmp_path / "fixed", catalog=catalog)
    assert fixed["refused"] == []
    assert {row["status"] for row in rows(catalog)} == {"ok"}


def as_before(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Names plans as the release before did: by the store's marks of the adapters as well."""
    now = planner._digest

    def then(
        recipe: Recipe,
        adapters: tuple[AdapterRecord, ...],
        weights: Any,
        scales: Any,
        marks: Mapping[str, str] | None = None,
        *,
        of_work: bool = False,
        arithmetic: int | None = None,
    ) -> str:
        del marks, arithmetic
        if of_work:  # finished tasks lay under the plan's own digest
            return ""
        return now(recipe, adapters, weights, scales, {a.uri: a.version for a in adapters})

    monkeypatch.setattr(planner, "_digest", then)
    return monkeypatch


def without_marks(catalog: Path) -> None:
    """Rows as a migrated catalog has them."""
    from deltalake import DeltaTable

    DeltaTable(str(catalog / "adapters")).update(updates={"mark": "NULL", "content_sha256": "NULL"})


@pytest.mark.parametrize("touched", [False, True], ids=["as it was", "touched"])
def test_what_the_release_before_merged_is_recognized(
    touched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, catalog = wide_zoo(tmp_path / "zoo"), tmp_path / "catalog"
    recipe = library(tmp_path, zoo)
    with monkeypatch.context() as patch:
        as_before(patch)
        first = merged(zoo, tmp_path / "out", catalog=tmp_path / "other")
        [old] = refreshed(recipe)["merges"]
    assert first["merge_id"] != plan_id(zoo)
    for each in (catalog, tmp_path / "other"):
        without_marks(each)
    if touched:
        touch(zoo)
    again = merged(zoo, tmp_path / "out", catalog=tmp_path / "other")
    assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
    told = refreshed(recipe)
    assert (told["status"], told["merges"][0]["merge_id"]) == ("unchanged", old["merge_id"])
    change_middle(weights_in(zoo))
    with pytest.raises(OutputExists):
        merged(zoo, tmp_path / "out", catalog=tmp_path / "other")
    [new] = refreshed(recipe)["merges"]
    assert (new["version"], new["status"]) == (2, "published")


def test_an_unfinished_run_of_the_release_before_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a method whose arithmetic is what it was; `test_former_release` has one of another."""
    zoo = wide_zoo(tmp_path / "zoo")
    svd: dict[str, Any] = {name: RUN[name] for name in RUN if name != "n_init"}
    svd["method"] = "svd"

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        as_before(patch)
        patch.setattr("lego_ray.merging.run.finish", killed)
        patch.setattr(Checkpoints, "clear", killed)
        with pytest.raises(KeyboardInterrupt):
            lego_ray.merge(zoo, output=tmp_path / "out", **svd)
    ended = lego_ray.merge(zoo, output=tmp_path / "out", **svd)
    assert (ended["status"], ended["resumed_sites"]) == ("published", 1)
    assert not (tmp_path / "out" / ".lego-ray").exists()
    assert RUN["rank"] == ended["rank"]


def test_a_lone_file_and_a_bin_are_told_apart_by_content(tmp_path: Path) -> None:
    """One of kohya's, one of torch.save's: each touched, then changed in the middle."""
    size = 4096

    def tensors(seed: int) -> dict[str, torch.Tensor]:
        drawn = torch.Generator().manual_seed(seed)
        name = "lora_unet_mid_block_attentions_0_proj_in"
        return {
            f"{name}.lora_down.weight": torch.randn(8, size, generator=drawn),
            f"{name}.lora_up.weight": torch.randn(size, 8, generator=drawn),
            f"{name}.alpha": torch.tensor(8.0),
        }

    lone = tmp_path / "kohya"
    lone.mkdir()
    peft = wide_zoo(tmp_path / "peft")
    for seed in (0, 1):
        save_file(tensors(seed), lone / f"a{seed}.safetensors")
        old = weights_in(peft, f"a{seed}")
        torch.save(load_file(old), old.with_name("adapter_model.bin"))
        old.unlink()
    for zoo, weights in (
        (lone, lone / "a0.safetensors"),
        (peft, peft / "a0" / "adapter_model.bin"),
    ):
        catalog, kind = tmp_path / f"catalog-{zoo.name}", zoo.name
        first = merged(zoo, tmp_path / f"{kind}-x", catalog=catalog)
        touch(zoo)
        again = merged(zoo, tmp_path / f"{kind}-x", catalog=catalog)
        assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
        change_middle(weights)
        assert lego_ray.scan(zoo, catalog=catalog)["new"] == 1
        other = merged(zoo, tmp_path / f"{kind}-y", catalog=catalog)
        assert other["merge_id"] != first["merge_id"]
        with pytest.raises(OutputExists, match="the merge of another plan"):
            merged(zoo, tmp_path / f"{kind}-x", catalog=catalog)


def test_another_commit_of_the_hub_with_the_same_bytes_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = wide_zoo(tmp_path / "zoo")
    catalog = tmp_path / "catalog"

    def files() -> dict[str, bytes]:
        return {str(p.relative_to(zoo)): p.read_bytes() for p in zoo.rglob("*") if p.is_file()}

    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.commit(files())
        first = merged("hf://org/zoo", tmp_path / "x", catalog=catalog)
        hub.commit({**files(), "notes.txt": b"another commit"})
        again = merged("hf://org/zoo", tmp_path / "x", catalog=catalog)
        assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
        assert again["bytes_read"] < 2 * N_BYTES  # the Hub's mark is a hash of the bytes
        on_disk = merged(zoo, tmp_path / "x", catalog=catalog)
        assert (on_disk["status"], on_disk["merge_id"]) == ("already published", first["merge_id"])
        change_middle(weights_in(zoo))
        hub.commit(files())
        other = merged("hf://org/zoo", tmp_path / "y", catalog=catalog)
        assert other["merge_id"] != first["merge_id"]


@pytest.mark.s3
def test_a_bucket_copy_is_the_same_and_a_change_in_the_middle_is_not(
    s3_bucket: str, tmp_path: Path
) -> None:
    """Copied in parts, so with another ETag; in another storage class; then changed."""
    zoo = wide_zoo(tmp_path / "zoo")
    uri, catalog = f"s3://{s3_bucket}/zoo", f"s3://{s3_bucket}/catalog"
    store = open_store(uri)
    for file in sorted(p for p in zoo.rglob("*") if p.is_file()):
        store.create(str(file.relative_to(zoo)), file.read_bytes())
    client = boto3.client("s3")
    weights = [info for info in store.list() if info.key.endswith(WEIGHTS)]
    first = merged(uri, f"s3://{s3_bucket}/x", catalog=catalog)
    for info in weights:
        copy_in_parts(client, s3_bucket, f"zoo/{info.key}", f"zoo/{info.key}")
        assert store.stat(info.key).version != info.version
    again = merged(uri, f"s3://{s3_bucket}/x", catalog=catalog)
    assert (again["status"], again["merge_id"]) == ("already published", first["merge_id"])
    assert again["bytes_read"] > 2 * N_BYTES
    for info in store.list():
        client.copy_object(
            Bucket=s3_bucket,
            Key=f"copy/{info.key}",
            CopySource={"Bucket": s3_bucket, "Key": f"zoo/{info.key}"},
        )
    copied = merged(f"s3://{s3_bucket}/copy", f"s3://{s3_bucket}/x", catalog=catalog)
    assert (copied["status"], copied["merge_id"]) == ("already published", first["merge_id"])
    assert merged(zoo, f"s3://{s3_bucket}/x")["status"] == "already published"
    change_middle(weights_in(zoo))
    client.put_object(Bucket=s3_bucket, Key=f"zoo/a0/{WEIGHTS}", Body=weights_in(zoo).read_bytes())
    assert lego_ray.scan(uri, catalog=catalog)["new"] == 1
    other = merged(uri, f"s3://{s3_bucket}/y", catalog=catalog)
    assert other["merge_id"] != first["merge_id"]
    with pytest.raises(OutputExists, match="the merge of another plan"):
        merged(uri, f"s3://{s3_bucket}/x")


def copy_in_parts(client: Any, bucket: str, source: str, target: str) -> None:
    """Copies an object as one of several parts, as tools do with large ones; its ETag is another."""
    begun = client.create_multipart_upload(Bucket=bucket, Key=target)["UploadId"]
    part = client.upload_part_copy(
        Bucket=bucket,
        Key=target,
        PartNumber=1,
        UploadId=begun,
        CopySource={"Bucket": bucket, "Key": source},
    )
    parts = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
    client.complete_multipart_upload(
        Bucket=bucket, Key=target, UploadId=begun, MultipartUpload={"Parts": parts}
    )


def test_a_streamed_hash_is_the_one_that_a_merge_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = wide_zoo(tmp_path / "zoo", 1)
    merged(zoo, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "lego_ray_manifest.json").read_text())
    [record] = scan_sources([str(zoo)]).inventory.adapters
    monkeypatch.setattr(contents, "PIECE", 1000)  # cuts tensors at odd places
    assert contents.read_content(record).whole == manifest["sources"][0]["tensors_sha256"]


def test_tensors_that_share_bytes_are_hashed_each(tmp_path: Path) -> None:
    data = bytes(range(200))
    (tmp_path / "f").write_bytes(data)
    spans = [
        TensorSpan(name, "U8", (end - start,), start, end)
        for name, start, end in (("a", 10, 60), ("b", 40, 90), ("c", 40, 41), ("d", 150, 200))
    ]
    found = contents.stream_hashes(open_store(str(tmp_path)), "f", spans)
    assert found == {
        s.name: contents.tensor_hash(s, memoryview(data)[s.start : s.end]) for s in spans
    }
