"""Adapters whose updates are alike are merged together, each group as `merge` would make it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lego_ray
from lego_ray.errors import InvalidOption, StoreUnavailable, StrictRefusal
from lego_ray.library.find_groups import GroupFinder
from lego_ray.methods.similarity import Similarity
from lego_ray.numerics.similarity.parts import cosines_bytes
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.grouped import plan_similarity
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.runners.inline import InlineRunner
from lego_ray.runners.open import make_runner, open_runner
from lego_ray.sources.headers import scan_sources
from tests.families import FAMILIES, STRANGER, write_family_zoo
from tests.merging.runs import fails_after
from tests.merging.test_bad_adapters import spoil
from tests.runners.spread import write_wide_zoo
from tests.zoo import (
    EMBEDDING,
    LINEAR,
    Site,
    files_of,
    permuted_ranks,
    shuffled_names,
    update_of,
    weights_of,
    write_adapter,
    write_zoo,
)

FRENCH = ["a-french", "c-french", "e-french"]
GERMAN = ["b-german", "d-german"]


def build(tmp_path: Path, entry: str = "groups: auto", **options: Any) -> dict[str, Any]:
    place = tmp_path / "library.yaml"
    zoo = options.pop("zoo", tmp_path / "zoo")
    place.write_text(
        f"sources: [{zoo}]\ncatalog: {tmp_path / 'catalog'}\n"
        f"merges: [{{name: fit, rank: 4, options: {{n_init: 2}}, {entry}}}]"
    )
    return lego_ray.build(place, **{"output": tmp_path / "out", "runner": "inline", **options})


def named(members: list[dict[str, Any]]) -> list[str]:
    return sorted(Path(member["adapter"]).name for member in members)


def told(record: dict[str, Any]) -> dict[str, list[str]]:
    """Names of the adapters of each group, and of those that stay alone."""
    [found] = record["groups"]
    groups = {group["name"]: named(group["adapters"]) for group in found["groups"]}
    return {**groups, "alone": named(found["alone"])}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_family_zoo(tmp_path / "zoo")


@pytest.fixture
def with_stranger(tmp_path: Path) -> Path:
    return write_family_zoo(tmp_path / "zoo", FAMILIES | STRANGER)


def test_families_fall_apart_and_each_is_merged_as_if_alone(zoo: Path, tmp_path: Path) -> None:
    record = build(tmp_path)
    assert told(record) == {"fit-1": FRENCH, "fit-2": GERMAN, "alone": []}
    assert [m["name"] for m in record["merges"]] == ["fit-1", "fit-2"]
    for name, members in (("fit-1", FRENCH), ("fit-2", GERMAN)):
        alone = lego_ray.merge(
            [zoo / member for member in members],
            rank=4,
            n_init=2,
            output=tmp_path / "alone" / name,
            runner="inline",
        )
        assert weights_of(tmp_path / "out" / name) == weights_of(tmp_path / "alone" / name)
        assert alone["merge_id"] in {m["merge_id"] for m in record["merges"]}
    tensors = lego_ray.plan(zoo, rank=4).read_bytes
    assert record["bytes_read"] == lego_ray.scan(zoo)["bytes_read"] + 2 * tensors


def test_the_catalog_has_what_the_dense_updates_say(with_stranger: Path, tmp_path: Path) -> None:
    record = build(tmp_path, "groups: {count: 2, alone_below: 0.4}")
    assert told(record) == {"fit-1": FRENCH, "fit-2": GERMAN, "alone": ["f-half-german"]}
    names = sorted([*FAMILIES, *STRANGER])
    flat = {
        name: np.concatenate(
            [u.ravel() for _, u in sorted(update_of(with_stranger / name).items())]
        )
        for name in names
    }

    def cosine(name: str, others: list[str]) -> float:
        mine = flat[name] / np.linalg.norm(flat[name])
        return float(
            np.mean([mine @ flat[o] / np.linalg.norm(flat[o]) for o in others if o != name])
        )

    rows = lego_ray.catalog.sql(
        tmp_path / "catalog", "SELECT * FROM groups ORDER BY uri"
    ).to_pylist()
    assert [Path(row["uri"]).name for row in rows] == names
    ids = {m["name"]: m["merge_id"] for m in record["merges"]}
    for row in rows:
        name = Path(row["uri"]).name
        group, own = ("fit-1", FRENCH) if name in FRENCH else ("fit-2", GERMAN)
        other, theirs = ("fit-2", GERMAN) if name in FRENCH else ("fit-1", FRENCH)
        if name in STRANGER:
            other, theirs = "fit-2", GERMAN  # what it is half of
            assert (row["status"], row["group_name"], row["merge_id"]) == ("alone", None, None)
            assert row["similarity"] is None
        else:
            assert (row["status"], row["group_name"]) == ("member", group)
            assert row["merge_id"] == ids[group]
            assert row["similarity"] == pytest.approx(cosine(name, own), abs=2e-6)
        assert row["nearest_group"] == other
        assert row["nearest_similarity"] == pytest.approx(cosine(name, theirs), abs=2e-6)
    assert len({(row["grouping_id"], row["silhouette"], row["found_at"]) for row in rows}) == 1
    known = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT uri FROM adapters").num_rows
    assert known == len(names)
    assert lego_ray.check_catalog(tmp_path / "catalog")["ok"]


def test_without_a_bound_the_stranger_is_merged(with_stranger: Path, tmp_path: Path) -> None:
    record = build(tmp_path, "groups: 2", dry_run=True)
    assert told(record)["fit-2"] == [*GERMAN, "f-half-german"]


def test_a_number_of_groups_is_kept_and_may_be_given_at_the_call(zoo: Path, tmp_path: Path) -> None:
    assert told(build(tmp_path, "groups: 1", dry_run=True))["fit-1"] == sorted(FAMILIES)
    forced = told(build(tmp_path, "groups: 1", groups=3, dry_run=True))
    assert sorted(name for names in forced.values() for name in names) == sorted(FAMILIES)
    assert len(forced) - 1 + len(forced["alone"]) == 3
    assert len(told(build(tmp_path, "groups: 1", groups="auto", dry_run=True))) == 3
    with pytest.raises(InvalidOption, match="has `groups`"):
        build(tmp_path, "seed: 1", groups=3)
    with pytest.raises(InvalidOption, match="--groups"):
        build(tmp_path, groups="many")


def test_a_dry_run_says_what_would_be_and_writes_nothing(zoo: Path, tmp_path: Path) -> None:
    record = build(tmp_path, dry_run=True)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "catalog").exists()
    made = build(tmp_path)
    assert record["dry_run"]
    assert {m["status"] for m in record["merges"]} == {"planned"}
    for one, two in zip(record["merges"], made["merges"], strict=True):
        assert {key: one[key] for key in ("merge_id", "name", "adapters", "output", "rank")} == {
            key: two[key] for key in ("merge_id", "name", "adapters", "output", "rank")
        }
    assert record["groups"] == made["groups"]


def test_built_again_it_finds_the_same_and_writes_nothing(zoo: Path, tmp_path: Path) -> None:
    first = build(tmp_path)
    before = files_of(tmp_path / "out"), files_of(tmp_path / "catalog")
    again = build(tmp_path)
    assert {m["status"] for m in again["merges"]} == {"already published"}
    assert again["groups"] == first["groups"]
    assert (files_of(tmp_path / "out"), files_of(tmp_path / "catalog")) == before


def test_names_and_order_of_adapters_change_nothing(with_stranger: Path, tmp_path: Path) -> None:
    shuffled = shuffled_names(with_stranger, tmp_path / "shuffled")
    entry = "groups: {count: 2, alone_below: 0.4}"
    first = build(tmp_path, entry)
    other = build(tmp_path, entry, zoo=shuffled, output=tmp_path / "two", catalog=tmp_path / "c2")
    for name in ("fit-1", "fit-2"):
        assert weights_of(tmp_path / "out" / name) == weights_of(tmp_path / "two" / name)
    assert [m["merge_id"] for m in first["merges"]] == [m["merge_id"] for m in other["merges"]]
    plain = [
        [
            (m["adapter_id"], m["similarity"])
            for g in r["groups"][0]["groups"]
            for m in g["adapters"]
        ]
        for r in (first, other)
    ]
    assert plain[0] == plain[1]


def test_permuted_ranks_change_no_bit(with_stranger: Path, tmp_path: Path) -> None:
    permuted = permuted_ranks(with_stranger, tmp_path / "permuted")
    entry = "groups: {count: 2, alone_below: 0.4}"
    first = build(tmp_path, entry)
    other = build(tmp_path, entry, zoo=permuted, output=tmp_path / "two", catalog=tmp_path / "c2")
    assert told(first) == told(other)
    for name in ("fit-1", "fit-2"):
        assert weights_of(tmp_path / "out" / name) == weights_of(tmp_path / "two" / name)
    figures = [
        sorted(
            (Path(m["adapter"]).name, m["similarity"], m["nearest_similarity"])
            for g in r["groups"][0]["groups"]
            for m in g["adapters"]
        )
        for r in (first, other)
    ]
    assert figures[0] == figures[1]


def test_a_bad_adapter_is_found_while_measuring(zoo: Path, tmp_path: Path) -> None:
    wanted = told(build(tmp_path, dry_run=True))
    bad = write_adapter(zoo / "bad", seed=1)
    spoil(bad, float("nan"))
    with pytest.raises(StrictRefusal):
        build(tmp_path, strict=True)
    assert not (tmp_path / "out").exists()
    record = build(tmp_path)
    assert told(record) == wanted
    assert {r["adapter"] for m in record["merges"] for r in m["refused"]} == {str(bad)}
    query = "SELECT status FROM adapters WHERE reason IS NOT NULL"
    assert lego_ray.catalog.sql(tmp_path / "catalog", query).to_pylist() == [
        {"status": "quarantined"}
    ]


def test_names_may_mean_what_is_in_one_group_only(zoo: Path, tmp_path: Path) -> None:
    write_adapter(zoo / "g-german", seed=2, sites=(*LINEAR, EMBEDDING))
    write_adapter(zoo / "h-german", seed=2, sites=(*LINEAR, EMBEDDING))
    write_adapter(zoo / "zero", seed=1)
    record = build(
        tmp_path,
        "groups: auto, weights: {a-french: 0.5, zero*: 0}, sites: {emb: {rank: 2, scale: 2}}",
    )
    assert told(record) == {
        "fit-1": [*GERMAN, "g-german", "h-german"],
        "fit-2": FRENCH,
        "alone": [],
    }
    query = "SELECT name, recipe FROM merges ORDER BY name"
    first, second = (
        json.loads(row["recipe"])
        for row in lego_ray.catalog.sql(tmp_path / "catalog", query).to_pylist()
    )
    assert (first["weights"], first["site_scales"], first["ranks"]["emb"]) == ({}, {"emb": 2}, 2)
    assert (second["weights"], second["site_scales"]) == ({"a-french": 0.5}, {})
    with pytest.raises(InvalidOption, match="merge fit, `weights`: no adapter is called a-frensh"):
        build(tmp_path, "groups: auto, weights: {a-frensh: 0.5}")


def test_adapters_without_kin_are_recorded_as_alone(zoo: Path, tmp_path: Path) -> None:
    record = build(tmp_path, "groups: {count: 1, alone_below: 1}")
    assert record["merges"] == []
    assert told(record) == {"alone": sorted(FAMILIES)}
    query = "SELECT DISTINCT status, nearest_group FROM groups"
    assert lego_ray.catalog.sql(tmp_path / "catalog", query).to_pylist() == [
        {"status": "alone", "nearest_group": None}
    ]


@pytest.mark.parametrize("written", [0, 4, 10])
def test_cut_short_it_ends_in_the_same_bytes_with_one_record(
    written: int, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fails_after(written, patch)
        with pytest.raises(StoreUnavailable):
            build(tmp_path)
    record = build(tmp_path)
    assert told(record) == {"fit-1": FRENCH, "fit-2": GERMAN, "alone": []}
    build(tmp_path, output=tmp_path / "two", catalog=tmp_path / "c2")
    for name in ("fit-1", "fit-2"):
        assert weights_of(tmp_path / "out" / name) == weights_of(tmp_path / "two" / name)
    found = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT adapter_id FROM groups")
    assert found.num_rows == len(set(found["adapter_id"].to_pylist())) == len(FAMILIES)


def test_cut_short_before_the_groups_are_recorded_the_next_build_does_it(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lego_ray.library.build.record_groups", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    query = "SELECT merge_id FROM groups"
    assert lego_ray.catalog.sql(tmp_path / "catalog", query).num_rows == 0
    record = build(tmp_path)
    assert {m["status"] for m in record["merges"]} == {"already published"}
    found = lego_ray.catalog.sql(tmp_path / "catalog", query)["merge_id"].to_pylist()
    assert len(found) == len(FAMILIES)
    assert set(found) == {m["merge_id"] for m in record["merges"]}


@pytest.mark.ray
def test_ray_finds_the_same_groups_to_the_bit(tmp_path: Path, local_ray: None) -> None:
    zoo = write_wide_zoo(tmp_path / "wide", 6)
    inventory = scan_sources([str(zoo)]).inventory
    for budget in (4 << 30, spread_budget(zoo)):
        found = []
        for name in ("inline", "ray"):
            with open_runner(name, {}) as runner:
                finder = GroupFinder(runner, budget, False, lambda plan, result: None)
                found.append(finder.find(Recipe(name="fit", rank=1), inventory, GroupOptions(2)))
        assert found[0] == found[1]


class Backwards(InlineRunner):
    """Runs everything and gives the results in the opposite order."""

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        yield from reversed(list(super().run(tasks)))


def test_the_order_that_tasks_end_in_changes_no_bit(tmp_path: Path) -> None:
    sites = tuple(Site(f"layers.{layer}.q_proj", (96,), 64) for layer in range(8))
    inventory = scan_sources([str(write_zoo(tmp_path / "zoo", 4, sites=sites))]).inventory
    recipe, work = Recipe(name="fit", rank=1), Similarity(4, 4)
    whole, _ = plan_similarity(recipe, inventory, memory_budget=4 << 30)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    plan, _ = plan_similarity(recipe, inventory, memory_budget=budget)
    assert len(plan.tasks) == len(sites)
    found = []
    for runner in (InlineRunner(), Backwards()):
        finder = GroupFinder(runner, budget, False, lambda plan, result: None)
        sums, bad = finder._measure(plan, work)
        assert not bad
        found.append(sums.products.tobytes())
    assert found[0] == found[1]
    assert np.abs(sums.products).min() > 0


def spread_budget(zoo: Path) -> int:
    """The largest budget of some under which what is measured of a site is spread over shards."""
    inventory = scan_sources([str(zoo)]).inventory
    for spare in range(4000, 0, -50):
        budget = WORKER_BYTES + spare * 1024
        plan, _ = plan_similarity(Recipe(name="m", rank=1), inventory, memory_budget=budget)
        if any(len(task.shards) > 1 for task in plan.tasks):
            return budget
    raise AssertionError("no budget spreads it")


def test_two_merges_in_one_place_are_refused(zoo: Path, tmp_path: Path) -> None:
    text = (
        f"sources: [{zoo}]\noutput: {tmp_path / 'out'}\ndefaults: {{rank: 4}}\nmerges:\n"
        f"  - {{name: fit, groups: auto}}\n  - {{name: all, output: {tmp_path / 'out/fit-2'}}}\n"
    )
    (tmp_path / "library.yaml").write_text(text)
    with pytest.raises(InvalidOption, match="and so does"):
        lego_ray.build(tmp_path / "library.yaml", runner="inline")
    assert not (tmp_path / "out").exists()


def test_more_adapters_than_memory_can_compare_are_refused(zoo: Path) -> None:
    inventory = scan_sources([str(zoo)]).inventory
    need = cosines_bytes(len(FAMILIES))
    finder = GroupFinder(make_runner("inline"), need - 1, False, lambda plan, result: None)
    with pytest.raises(InvalidOption, match="grouping 5 adapters") as caught:
        finder.find(Recipe(name="fit", rank=1), inventory, GroupOptions())
    assert caught.value.exit_code == 2
