"""An output that holds another merge is refused with what differs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import OutputExists
from lego_ray.output.differing import SHOWN, what_differs
from lego_ray.output.manifest import MANIFEST_KEY
from tests.zoo import write_adapter, write_zoo

ASKED: dict[str, Any] = {"rank": 4, "runner": "inline", "n_init": 1}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_zoo(tmp_path / "zoo", 3)
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "out", **ASKED)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rank": 8}, "rank 4 -> 8"),
        ({"n_init": 2, "seed": 5}, "n_init 1 -> 2; seed 0 -> 5"),
        ({"exclude": ["a0"]}, "exclude none -> a0; 1 adapter fewer (a0)"),
        ({"weights": {"a1": 2}}, "weights: a1 none -> 2"),
        ({"dtype": "BF16"}, "dtype majority -> BF16"),
        ({"name": "other"}, "name out -> other"),
    ],
)
def test_options_that_differ_are_named(place: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(OutputExists) as refused:
        lego_ray.merge(place / "zoo", output=place / "out", **{**ASKED, **changed})
    said = refused.value.problem.partition(": ")[2]
    assert sorted(said.split("; ")) == sorted(says.split("; "))


def test_adapters_more_are_counted_and_named(place: Path) -> None:
    for seed in range(4):
        write_adapter(place / "zoo" / f"new{seed}", seed=seed + 50)
    with pytest.raises(OutputExists, match=r"4 adapters more \((new\d, ){3}\.\.\.\)\."):
        lego_ray.merge(place / "zoo", output=place / "out", **ASKED)


def test_the_same_plan_differs_in_nothing_it_can_name(place: Path) -> None:
    plan = lego_ray.plan(place / "zoo", output=place / "out", rank=4, n_init=1)
    manifest = json.loads((place / "out" / MANIFEST_KEY).read_text())
    assert what_differs(manifest, plan) == "the options or the adapters differ"
    many = {**manifest, "recipe": dict.fromkeys("abcdefgh", "x")}
    assert what_differs(many, plan).count("; ") == SHOWN
    assert re.search(r"; and \d+ more$", what_differs(many, plan))
