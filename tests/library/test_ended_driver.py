"""A holder of the lease that its cluster says has ended is taken over from at once, and safely."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.runners.base import KnowsProcesses
from lego_ray.runners.inline import InlineRunner
from lego_ray.storage.file import FileStore
from lego_ray.storage.lease import Lease, leased
from tests.library.test_takeover import current, goes_on, library, stopped
from tests.merging.runs import N_INIT, many_sites
from tests.storage.leases import fall_silent
from tests.surroundings import without_ray
from tests.zoo import weights_of, write_adapter

ROOT = Path(__file__).parents[2]
RECIPE = """
sources: [{zoo}]
catalog: {place}/catalog
output: {place}/output
merges: [{{name: m, rank: 8, options: {{n_init: {n_init}}}}}]
"""
FOLDER = ".lego-ray/refresh/"


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_killed_driver_is_taken_over_from_when_its_cluster_says_so(tmp_path: Path) -> None:
    zoo, budget = many_sites(tmp_path, 12)
    recipe = tmp_path / "library.yaml"
    recipe.write_text(RECIPE.format(zoo=zoo, place=tmp_path, n_init=N_INIT))
    words = [str(recipe), str(tmp_path / "output"), str(budget)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.library.ended_driver", *words],
        env=without_ray(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert answers["while it lives"]["status"] == "busy"
    assert not {"known_by", "ray_job"} & answers["while it lives"]["holder"].keys()
    assert answers["elsewhere"]["status"] == "busy"  # no one there can ask the cluster
    # With a lease of an hour, so it was not silence that ended it.
    there = answers["there"]
    assert there["status"] == "refreshed"
    assert there["merges"][0]["resumed_sites"] > 0
    assert answers["then"]["status"] == "unchanged"
    assert answers["of a former cluster"] is False
    assert answers["not a cluster"] is False
    assert (answers["stopped"], answers["closed"]) == (False, True)
    alone = tmp_path / "alone"
    lego_ray.merge(zoo, rank=8, name="m", n_init=N_INIT, output=alone, runner="inline")
    assert weights_of(there["merges"][0]["output"]) == weights_of(alone)


class Told(InlineRunner):
    """A runner on a cluster that takes a living process for one that has ended."""

    def presence(self) -> Mapping[str, str]:
        return {"cluster": "c", "process": "new"}

    def has_ended(self, presence: Mapping[str, str]) -> bool:
        return dict(presence) == {"cluster": "c", "process": "old"}


@pytest.mark.parametrize("point", ["claimed", "publish", "commit"])
def test_one_that_lives_on_loses_to_the_one_that_took_over(tmp_path: Path, point: str) -> None:
    place = str(tmp_path / "place")
    recipe = library(tmp_path, place)
    assert isinstance(Told(), KnowsProcesses)
    with stopped(recipe, point) as sleeper:
        [lease] = (tmp_path / "place/library" / FOLDER).glob("lease-*.json")
        about = json.loads(lease.read_text())
        lease.write_text(json.dumps({**about, "known_by": {"cluster": "c", "process": "old"}}))
        write_adapter(tmp_path / "zoo" / "new", seed=9)
        assert lego_ray.refresh(recipe, runner="inline")["status"] == "busy"
        assert lego_ray.refresh(recipe, runner=Told())["status"] == "refreshed"
        won = current(place)
        said = goes_on(sleeper)
    assert said.startswith("RunFailed"), said
    assert "has taken over (turn 2, this one had 1)" in said
    assert current(place) == won
    assert lego_ray.check_catalog(f"{place}/catalog", deep=True)["problems"] == []


@pytest.mark.parametrize("known_by", [None, [], "x", 1, {}, {"process": {"deep": []}}])
def test_what_others_wrote_into_a_lease_is_no_end(tmp_path: Path, known_by: object) -> None:
    store = FileStore(tmp_path)
    with leased(Lease(store, FOLDER, {"host": "a"}), {"process": "1"}):
        [path] = (tmp_path / FOLDER).glob("lease-*.json")
        path.write_text(json.dumps({"host": "a", "known_by": known_by}))
        asked: list[Mapping[str, str]] = []

        def has_ended(presence: Mapping[str, str]) -> bool:
            asked.append(presence)
            return False

        other = Lease(store, FOLDER, {"host": "b"}, has_ended=has_ended)
        holder = other.holder()
        assert holder is not None
        assert holder["host"] == "a"
        assert "known_by" not in holder
        assert all(isinstance(value, str) for each in asked for value in each.values())


def test_an_ended_holder_is_taken_over_from_once(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    dead = Lease(store, FOLDER, {"host": "dead"})
    assert dead.take({"process": "1"}) is None
    fall_silent(dead)

    def has_ended(presence: Mapping[str, str]) -> bool:
        return presence == {"process": "1"}

    heirs = [Lease(store, FOLDER, {"host": str(n)}, has_ended=has_ended) for n in range(2)]
    assert heirs[0].holder() is None
    with leased(heirs[0], {"process": "2"}) as holder:
        assert holder is None
        assert heirs[0].number == 2
        told = heirs[1].take({"process": "3"})
        assert told is not None
        assert told["host"] == "0"
