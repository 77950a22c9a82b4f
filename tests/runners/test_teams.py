"""What a team of shards and its owner reserve of a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

import lego_ray
from lego_ray.runners.ray.teams import TEAMS, bundles_for
from lego_ray.tasks.cut import tasks_of
from tests.runners.spread import SITES, budget_for, shards_of, write_wide_zoo


@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_all_need_a_core_and_two_teams_fit_the_workers(tmp_path: Path, slots: int) -> None:
    """A head without cores takes none of them, however much memory it has."""
    zoo = write_wide_zoo(tmp_path / "zoo", sites=SITES[:1])
    plan = lego_ray.plan(zoo, rank=4, memory_budget=budget_for(zoo, 3))
    [shards] = shards_of(plan).values()
    bundles = bundles_for(list(tasks_of(plan)), slots, 0)
    assert len(bundles) == shards + 1
    assert all(each["CPU"] > 0 for each in bundles)
    # Ray counts in ten-thousandths; a core takes the same number of shards of each team.
    each_core = -(-shards // slots)
    *parts, owner = (round(bundle["CPU"], 4) for bundle in bundles)
    assert TEAMS * (each_core * max(parts) + owner) <= 1 + 1e-9
    assert (TEAMS * each_core + 1) * min(parts) > 1
