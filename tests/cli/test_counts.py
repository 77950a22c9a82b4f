"""The numbers that commands print add up to the adapters that lie under the sources."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.cli.main import cli
from tests.zoo import WEIGHTS, write_adapter, write_zoo

OTHER = "other/base"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four adapters, a copy of one, one of another base, one refused, one of NaN, a run of three."""
    root = tmp_path_factory.mktemp("counts") / "zoo"
    write_zoo(root, 4)
    write_adapter(root / "copy", seed=0)
    write_adapter(root / "foreign", seed=20, base_model=OTHER)
    write_adapter(root / "broken", seed=21)
    (root / "broken" / "adapter_config.json").write_text("{")
    write_adapter(root / "nan", seed=22)
    tensors = load_file(root / "nan" / WEIGHTS)
    save_file(
        {name: torch.full_like(t, math.nan) for name, t in tensors.items()}, root / "nan" / WEIGHTS
    )
    for step in (1, 2, 3):
        write_adapter(root / "run" / f"checkpoint-{step}", seed=30 + step)
    return root


# What lies there: 4 and the copy, the foreign one, the broken one, that of NaN, and 3 checkpoints.
FOUND = 11


def asked(*words: object) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code in (0, 1), done.output
    return done.stdout


def numbers(text: str) -> dict[str, int]:
    """The line `11 found: 7 usable, ...` as numbers by their words."""
    [line] = re.findall(r"([\d,]+) found: ([^;.\n]*)", text)
    parts = dict(reversed(part.split(" ", 1)) for part in line[1].split(", "))
    return {"found": int(line[0]), **{word: int(n) for word, n in parts.items()}}


def adds_up(counts: Mapping[str, Any]) -> bool:
    parts = [n for name, n in counts.items() if name not in ("found", "merged", "unmerged")]
    return bool(counts["found"] == sum(parts) == FOUND)


def test_scan_and_init_count_all_that_is_there(zoo: Path, tmp_path: Path) -> None:
    expected = {"found": FOUND, "usable": 8, "refused": 1, "checkpoints passed over": 2}
    assert numbers(asked("scan", zoo)) == expected
    assert numbers(asked("init", zoo, "--output", tmp_path / "r.yaml")) == expected
    assert numbers((tmp_path / "r.yaml").read_text()) == expected
    assert adds_up(lego_ray.scan(zoo)["counts"])
    assert numbers(asked("scan", zoo, "--exclude", "a*")) == {
        **expected,
        "usable": 4,
        "left out by exclude": 4,
    }
    assert numbers(asked("scan", zoo, zoo / "a0")) == expected  # reached twice, and there once


@pytest.mark.parametrize(
    ("more", "usable", "others"),
    [
        (("--only-base", "tiny/base"), 7, {"of other base models": 1}),
        (("--only-base", OTHER), 1, {"of other base models": 7}),
        (
            ("--only-base", "tiny/base", "--exclude", "a1", "--weight", "a0=0"),
            5,
            {"of other base models": 1, "left out by exclude": 1, "of weight 0": 1},
        ),
        (("--only-base", "tiny/base", "--checkpoints", "all"), 9, {"of other base models": 1}),
    ],
)
def test_a_plan_counts_what_it_leaves_out(
    zoo: Path, more: tuple[str, ...], usable: int, others: dict[str, int]
) -> None:
    runs = {} if "all" in more else {"checkpoints passed over": 2}
    for rank in ("2", "2,3"):
        assert numbers(asked("plan", zoo, "--rank", rank, *more)) == {
            "found": FOUND,
            "usable": usable,
            "refused": 1,
            **runs,
            **others,
        }
    counts = json.loads(asked("plan", zoo, "--rank", 2, *more, "--json"))["counts"]
    assert adds_up(counts)
    assert counts["usable"] == usable


def test_a_merge_counts_what_it_merged(zoo: Path, tmp_path: Path) -> None:
    asking = ("merge", zoo, "--rank", 2, "--only-base", "tiny/base", "--method", "svd")
    words = (*asking, "--runner", "inline", "--output", tmp_path / "m")
    for _ in range(2):  # made, and found as it was made
        text = asked(*words)
        assert "6 adapters merged" in text or "already published: 6 adapters" in text
        assert numbers(text) == {
            "found": FOUND,
            "merged": 6,
            "refused": 2,  # that of NaN only when it is read
            "checkpoints passed over": 2,
            "of other base models": 1,
        }
    assert adds_up(json.loads(asked(*words, "--json"))["counts"])
    plain = asked(
        "merge", zoo / "a0", "--rank", 2, "--runner", "inline", "--output", tmp_path / "one"
    )
    assert "found" not in plain  # nothing else was there


def test_an_update_counts_what_it_adds(zoo: Path, tmp_path: Path) -> None:
    merged = ("merge", zoo / "a0", "--rank", 2, "--updatable", "--runner", "inline")
    asked(*merged, "--output", tmp_path / "m")
    added = (zoo / "a1", zoo / "nan", zoo / "broken", zoo / "run")
    text = asked("update", tmp_path / "m", "--add", *added, "--runner", "inline")
    assert numbers(text) == {
        "found": 6,
        "added": 2,
        "refused": 2,
        "checkpoints passed over": 2,
    }


RECIPE = """
sources: [{zoo}]
output: library
defaults: {{rank: 2, method: svd}}
merges:
  - name: some
    adapters: ["a*", nan]
    exclude: [a3]
  - name: foreign
    where: base_model = 'other/base'
  - name: rest
    only_base: tiny/base
    adapters: ["a0", foreign, broken]
"""


@pytest.mark.parametrize("verb", ["build", "refresh"])
def test_a_library_counts_its_zoo_and_what_is_in_its_merges(
    zoo: Path, tmp_path: Path, verb: str
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(zoo=zoo))
    asking = (verb, recipe, "--output", tmp_path / "library", "--catalog", tmp_path / "catalog")
    words = (*asking, "--runner", "inline")
    for _ in range(3):  # made, looked at, and recalled
        text = asked(*words)
        assert numbers(text) == {
            "found": FOUND,
            "usable": 7,
            "refused": 2,
            "checkpoints passed over": 2,
        }
        # a0, a1, a2 and the foreign one are merged; a3, the copy and the run are in none.
        assert "; 4 of the usable are in a merge, 3 in none" in text
        assert text.count("left out  ") == 2
    record = json.loads(asked(*words, "--json"))
    assert adds_up(record["counts"])
    call = lego_ray.build(recipe, output=tmp_path / "again", runner="inline", dry_run=True)
    for merge in call["merges"]:
        assert adds_up(merge["counts"]), merge["name"]
        assert merge["counts"]["usable"] == len(merge["adapters"])
