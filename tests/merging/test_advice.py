"""Advice after a merge: where little of the adapters is in it, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.merging.record import MergeRecord
from tests.zoo import Site, update_of, write_adapter

# Wide enough that adapters of random factors have nothing in common.
WIDE = (Site("layers.0.q_proj", (200,), 200),)
SEVERAL = range(1, 13)


def zoo_of(place: Path, seeds: Sequence[int]) -> Path:
    for number, seed in enumerate(seeds):
        write_adapter(place / f"a{number}", seed=seed, rank=4, sites=WIDE)
    return place


def merged(zoo: Path, output: Path, **options: Any) -> MergeRecord:
    options = {"rank": 4, "method": "svd", **options}
    return lego_ray.merge(zoo, output=output, runner="inline", **options)


def share_of(output: Path, zoo: Path) -> float:
    """`cos(W, S)^2` at the one module, from dense updates."""
    w = update_of(output)[WIDE[0].name].ravel()
    s = np.sum([update_of(each)[WIDE[0].name].ravel() for each in sorted(zoo.iterdir())], axis=0)
    return float((w @ s) ** 2 / (w @ w) / (s @ s))


def test_adapters_with_nothing_in_common_call_for_advice(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", SEVERAL)
    record = merged(zoo, tmp_path / "m")
    share = share_of(tmp_path / "m", zoo)
    assert share < 0.25
    assert record.advice is not None
    assert record["advice"] == record.advice
    assert f"at rank 4 the merge accounts for {100 * share:.0f} % of" in record.advice
    assert "the 12 adapters' updates" in record.advice
    assert "such as svd" not in record.advice
    # The scale of the merged update has no part in it.
    mean = merged(zoo, tmp_path / "mean", output_scale=0.125)
    assert mean.advice == record.advice


@pytest.mark.parametrize(
    ("seeds", "options"),
    [
        ([1], {"rank": 1}),
        ([1, 1, 1, 1, 1, 1], {}),
        ([1, 1, 1, 1, 1, 1], {"output_scale": 0.1}),
        ([1, 2], {"rank": 8}),
        (SEVERAL, {"rank": 48, "method": "concat"}),
    ],
)
def test_other_merges_call_for_none(
    tmp_path: Path, seeds: Sequence[int], options: dict[str, Any]
) -> None:
    record = merged(zoo_of(tmp_path / "zoo", seeds), tmp_path / "m", **options)
    assert record.advice is None
    assert record["advice"] is None


def test_it_is_printed_logged_and_in_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zoo = zoo_of(tmp_path / "zoo", SEVERAL)
    words = ["merge", str(zoo), "--rank", "4", "--n-init", "1", "--runner", "inline", "--output"]
    told = CliRunner().invoke(cli, [*words, str(tmp_path / "m")])
    assert told.exit_code == 0, told.output
    [line] = [line for line in told.stdout.splitlines() if line.startswith("advice ")]
    assert "groups: auto" in line
    assert "such as svd" in line
    printed = json.loads(CliRunner().invoke(cli, [*words, str(tmp_path / "n"), "--json"]).stdout)
    assert line == f"advice    {printed['advice']}"
    again = json.loads(CliRunner().invoke(cli, [*words, str(tmp_path / "n"), "--json"]).stdout)
    assert again["advice"] is None


def test_a_library_prints_the_first_and_counts_the_others(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", SEVERAL)
    recipe = tmp_path / "library.yaml"
    recipe.write_text(
        f"sources: [{zoo}]\noutput: {tmp_path / 'out'}\nmerges:\n"
        "  - {name: one, rank: 4, method: svd}\n  - {name: two, rank: 2, method: svd}\n"
        "  - {name: all, rank: 48, method: svd}\n"
    )
    told = CliRunner().invoke(cli, ["build", str(recipe), "--runner", "inline"])
    assert told.exit_code == 0, told.output
    [line] = [line for line in told.stdout.splitlines() if line.startswith("advice ")]
    assert line.startswith("advice    one: at rank 4")
    assert line.endswith("(1 other merge too)")
