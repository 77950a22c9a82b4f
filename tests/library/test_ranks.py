"""Merges at several ranks from one read: the bytes of single merges, one by one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.planning.recipe_file import parse_recipe_file
from tests.zoo import mixed_zoo, wide_site, write_adapter

RANKS = (2, 4, 8)
HERE: dict[str, Any] = {"runner": "inline"}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return mixed_zoo(tmp_path / "zoo")


def files_of(place: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(place.iterdir()) if p.is_file()}


@pytest.mark.parametrize(
    "options",
    [
        {"n_init": 2},
        {"method": "svd", "weights": {"plain": 2.0}},
        {"n_init": 2, "updatable": True, "exclude": ["rslora"]},
    ],
    ids=["lego", "svd", "updatable"],
)
def test_each_merge_has_the_bytes_of_a_single_one(
    zoo: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    swept = lego_ray.merge_ranks(
        zoo, ranks=RANKS, output=out, catalog=tmp_path / "catalog", **HERE, **options
    )
    assert [merge.name for merge in swept.merges] == [f"out-rank-{k}" for k in RANKS]
    read = []
    for merge, rank in zip(swept.merges, RANKS, strict=True):
        assert (merge.rank, merge.status) == (rank, "published")
        assert merge.output == str(out / f"rank-{rank}")
        alone = tmp_path / f"alone-{rank}"
        single = lego_ray.merge(
            zoo, rank=rank, output=alone, name=f"out-rank-{rank}", **HERE, **options
        )
        assert single.merge_id == merge.merge_id
        assert files_of(alone) == files_of(Path(merge.output))
        read.append(single.bytes_read)
    # Headers and tensors, once for all.
    assert swept.bytes_read == read[0] == read[1] == read[2]
    names = lego_ray.catalog.list_merges(tmp_path / "catalog")["name"].to_pylist()
    assert sorted(names) == sorted(f"out-rank-{k}" for k in RANKS)


def test_what_is_published_is_left_and_the_rest_is_made(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {"method": "svd", **HERE}
    lego_ray.merge(zoo, rank=4, output=out / "rank-4", name="out-rank-4", **given)
    before = files_of(out / "rank-4")
    swept = lego_ray.merge_ranks(zoo, ranks=RANKS, output=out, **given)
    assert [m.status for m in swept.merges] == ["published", "already published", "published"]
    assert files_of(out / "rank-4") == before
    shutil.rmtree(out / "rank-8")
    swept = lego_ray.merge_ranks(zoo, ranks=RANKS, output=out, **given)
    assert [m.status for m in swept.merges] == [
        *("already published", "already published", "published"),
    ]


def test_a_dry_run_and_a_plan_say_what_the_run_does(zoo: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"ranks": RANKS, "method": "svd", "output": tmp_path / "out"}
    dry = lego_ray.merge_ranks(zoo, dry_run=True, **given, **HERE)
    assert not (tmp_path / "out").exists()
    sweep = lego_ray.plan_ranks(zoo, **given)
    assert [m.merge_id for m in dry.merges] == [plan.digest for plan in sweep.plans]
    assert [plan.rank for plan in sweep.plans] == list(RANKS)
    # Read once: what the plan of one rank reads, not three times that.
    assert sweep.read_bytes == sweep.plans[0].read_bytes
    made = lego_ray.merge_ranks(zoo, **given, **HERE)
    assert [m.merge_id for m in made.merges] == [plan.digest for plan in sweep.plans]


def test_a_module_that_does_not_fit_for_all_ranks_is_read_for_each(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    for seed in range(6):
        write_adapter(zoo / f"a{seed}", seed=seed, rank=8, sites=wide_site(20_000))
    given: dict[str, Any] = {"method": "svd", "output": tmp_path / "out"}
    wide = lego_ray.plan_ranks(zoo, ranks=[2, 4], **given)
    [one, other] = wide.plans
    budget = max(one.peak_bytes, other.peak_bytes)
    assert wide.read_bytes == one.read_bytes
    assert wide.peak_bytes > budget
    narrow = lego_ray.plan_ranks(zoo, ranks=[2, 4], memory_budget=budget, **given)
    assert narrow.read_bytes == one.read_bytes + other.read_bytes
    assert narrow.peak_bytes <= budget
    made = lego_ray.merge_ranks(zoo, ranks=[2, 4], memory_budget=budget, **given, **HERE)
    again = lego_ray.merge_ranks(
        zoo, ranks=[2, 4], method="svd", output=tmp_path / "once", name="out", **HERE
    )
    assert made.bytes_read - again.bytes_read == narrow.read_bytes - wide.read_bytes
    for rank in (2, 4):
        folder = f"rank-{rank}"
        assert files_of(tmp_path / "out" / folder) == files_of(tmp_path / "once" / folder)


def test_a_rank_that_the_method_cannot_give_fails_alone(zoo: Path, tmp_path: Path) -> None:
    swept = lego_ray.merge_ranks(
        zoo, ranks=[1, 30], output=tmp_path / "out", method="linear", **HERE
    )
    assert [merge.rank for merge in swept.merges] == [30]
    [failed] = swept.failed
    assert failed["merge"] == "out-rank-1"
    with pytest.raises(InvalidOption, match="rank"):
        lego_ray.merge_ranks(
            zoo, ranks=[1, 30], output=tmp_path / "strict", method="linear", strict=True, **HERE
        )
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ranks": [4, 4]}, "rank 4 is given twice"),
        ({"ranks": [4, 0]}, "not whole numbers of at least 1"),
        ({"ranks": [4, 8], "rank": 2}, "several ranks are given already"),
        ({"ranks": [4, 8], "rank_budget": 2}, "several ranks are given already"),
    ],
)
def test_ranks_that_contradict_are_an_error(
    zoo: Path, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidOption, match=said):
        lego_ray.merge_ranks(zoo, output=tmp_path / "out", **given, **HERE)
    assert not (tmp_path / "out").exists()


def test_the_command_makes_and_plans_them(zoo: Path, tmp_path: Path) -> None:
    words = [str(zoo), "--rank", "2,4", "--method", "svd", "--output", str(tmp_path / "out")]
    planned = CliRunner().invoke(cli, ["plan", *words])
    assert planned.exit_code == 0, planned.output
    assert "to read once for all ranks" in planned.stdout
    told = json.loads(CliRunner().invoke(cli, ["plan", *words, "--json"]).stdout)
    assert [plan["plan"] for plan in told["plans"]] == [
        line.split()[-1] for line in planned.stdout.splitlines() if "out-rank-" in line
    ]
    done = CliRunner().invoke(cli, ["merge", *words, "--runner", "inline"])
    assert done.exit_code == 0, done.output
    assert "out-rank-2" in done.stdout
    assert "2 merges of" in done.stdout
    again = CliRunner().invoke(cli, ["merge", *words, "--runner", "inline", "--json"])
    record = json.loads(again.stdout)
    assert [m["status"] for m in record["merges"]] == ["already published"] * 2
    assert [m["merge_id"] for m in record["merges"]] == [p["plan"] for p in told["plans"]]
    for bad in ("2,2", "2,x", "2,", "0,4"):
        failed = CliRunner().invoke(cli, ["merge", *words, "--rank", bad, "--runner", "inline"])
        assert failed.exit_code != 0, bad
    errors = CliRunner().invoke(cli, ["plan", *words, "--errors"])
    assert errors.exit_code == 2
    assert "give one rank, or auto" in errors.output


def test_an_entry_of_a_library_has_ranks(zoo: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "library.yaml"
    elsewhere = tmp_path / "elsewhere"
    recipe.write_text(
        f"sources: [{zoo}]\noutput: {tmp_path / 'out'}\ndefaults: {{method: svd, ranks: [2, 4]}}\n"
        f"merges:\n  - name: sweep\n  - {{name: one, rank: 8}}\n"
        f"  - {{name: own, ranks: [2], output: {elsewhere}}}\n"
    )
    built = lego_ray.build(recipe, **HERE)
    assert {merge.name: merge.output for merge in built.merges} == {
        "sweep-rank-2": str(tmp_path / "out" / "sweep-rank-2"),
        "sweep-rank-4": str(tmp_path / "out" / "sweep-rank-4"),
        "one": str(tmp_path / "out" / "one"),
        "own-rank-2": str(elsewhere / "rank-2"),
    }
    single = lego_ray.merge(
        zoo, rank=4, method="svd", output=tmp_path / "alone", name="sweep-rank-4", **HERE
    )
    assert files_of(tmp_path / "alone") == files_of(tmp_path / "out" / "sweep-rank-4")
    # From one read, as its one rank takes.
    assert built.bytes_read == single.bytes_read


def test_a_library_with_ranks_is_refreshed(zoo: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "library.yaml"
    recipe.write_text(
        f"sources: [{zoo}]\noutput: {tmp_path / 'out'}\ncatalog: {tmp_path / 'catalog'}\n"
        "merges:\n  - {name: sweep, method: svd, ranks: [2, 4]}\n"
    )
    first = lego_ray.refresh(recipe, **HERE)
    assert [(m.name, m.rank, m.version) for m in first.merges] == [
        ("sweep-rank-2", 2, 1),
        ("sweep-rank-4", 4, 1),
    ]
    assert lego_ray.refresh(recipe, **HERE).status == "unchanged"


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("{name: a, ranks: [2, 2]}", "; expected different whole numbers"),
        ("{name: a, ranks: []}", "; expected different whole numbers"),
        ("{name: a, ranks: [0]}", "merges[0].ranks[0]"),
        ("{name: a, ranks: 4}", "merges[0].ranks"),
        ("{name: a, ranks: [2], rank: 4}", "merges[0].ranks: it takes the place of rank"),
        ("{name: a, ranks: [2], groups: auto}", "merges[0].ranks: groups have one rank"),
        ("{name: a, ranks: [2]}, {name: a-rank-2, rank: 2}", "a-rank-2 is the name of another"),
        ("{name: a, ranks: [2, 4], dtype: F33}", "merges[0].dtype"),
    ],
)
def test_faults_of_ranks_are_named(entry: str, fault: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe_file(f"sources: [zoo]\nmerges: [{entry}]", "library.yaml")
    assert fault in str(raised.value)
    assert str(raised.value).count("F33") <= 1
