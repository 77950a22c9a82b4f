"""How alike sources are, from pools as they are read: whole, or in blocks of adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import lego_ray
from lego_ray.numerics.pool import Pool
from lego_ray.planning.plan import Plan
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.read import extract
from lego_ray.verification import similarity
from lego_ray.verification.similarity import SimilarityWatch
from tests.zoo import mixed_zoo, update_of


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return lego_ray.plan(mixed_zoo(tmp_path / "zoo"), rank=4)


def true_cosines(plan: Plan) -> NDArray[np.float64]:
    updates = [update_of(Path(adapter.uri)) for adapter in plan.adapters]
    sites = sorted({site for update in updates for site in update})
    shapes = {site: update[site].shape for update in updates for site in update}
    flat = np.stack(
        [
            np.concatenate([u.get(site, np.zeros(shapes[site])).ravel() for site in sites])
            for u in updates
        ]
    )
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines: NDArray[np.float64] = unit @ unit.T
    return cosines


def taken(plan: Plan, blocks: int) -> SimilarityWatch:
    """What is found of pools cut into so many blocks of adapters."""
    found = SimilarityWatch(plan)
    for task in tasks_of(plan):
        read = extract(task, as_stored=True)
        for site in task.plan.sites:
            pool = read.pools[site.site]
            scalings = {t: own[site.site] for t, own in read.scalings.items() if site.site in own}
            for block in range(blocks):
                here = pool.adapters % blocks == block
                rows = (pool.rows[here], pool.d_in, pool.adapters[here])
                part = Pool(*rows, pool.ranks[here], pool.lengths[here])
                mine = {t: s for t, s in scalings.items() if t % blocks == block}
                found.take(site, part, mine)
    return found


def test_cosines_are_those_of_the_updates(plan: Plan) -> None:
    found = taken(plan, 1)
    assert found.exact
    np.testing.assert_allclose(found.cosines(), true_cosines(plan), atol=1e-6)


def test_sketches_are_near_and_the_same_from_blocks(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "EXACT", 0)
    whole, blocks = taken(plan, 1), taken(plan, 2)
    assert not whole.exact
    np.testing.assert_array_equal(whole.cosines(), blocks.cosines())
    # Four sites and maps 64 wide: see `similarity.WIDTH`; four standard errors.
    error = 4 * ((2 / (64 * 4)) ** 0.5 + 1 / 64)
    np.testing.assert_allclose(whole.cosines(), true_cosines(plan), atol=error)
