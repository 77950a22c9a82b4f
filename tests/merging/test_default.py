"""What no flag gives keeps the laws of a merge, and takes every input that plain `lego` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lego_ray
from lego_ray.errors import InvalidOption
from lego_ray.methods.presets import DEFAULT_PRESET
from tests.merging.test_laws import merge
from tests.zoo import (
    CONV,
    EMBEDDING,
    LINEAR,
    files_of,
    mixed_zoo,
    permuted_ranks,
    relative_error,
    shuffled_names,
    update_of,
    weights_of,
    wide_site,
    write_adapter,
    write_zoo,
)

# The law of the adaptive step: a lone adapter comes back to this.
LONE = 1e-6


@pytest.mark.parametrize("copies", [1, 3])
def test_one_adapter_in_is_the_same_adapter_out(copies: int, tmp_path: Path) -> None:
    sites = (*LINEAR, EMBEDDING, CONV)
    for number in range(copies):
        write_adapter(tmp_path / "zoo" / f"a{number}", seed=1, rank=4, sites=sites)
    merge(tmp_path / "zoo", tmp_path / "m", rank=4)
    # Copies are averaged as one adapter by lego, and keep the norm of one by the step.
    wanted = update_of(tmp_path / "zoo" / "a0")
    assert relative_error(update_of(tmp_path / "m"), wanted) <= LONE


def test_it_is_the_preset_byte_for_byte_and_order_changes_nothing(tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    merge(zoo, tmp_path / "m")
    merge(zoo, tmp_path / "preset", preset=DEFAULT_PRESET)
    merge(permuted_ranks(zoo, tmp_path / "permuted"), tmp_path / "p")
    merge(shuffled_names(zoo, tmp_path / "shuffled"), tmp_path / "s")
    for other in ("preset", "p", "s"):
        assert weights_of(tmp_path / other) == weights_of(tmp_path / "m")


INPUTS: dict[str, dict[str, Any]] = {
    "ranks by error": {"rank": "auto", "rank_error": 0.5},
    "a rank for each module": {"rank": None, "rank_budget": 3},
    "rank above all": {"rank": 40},
    "weights that cancel": {"weights": {"plain": -1.0, "rslora": -2.0}},
    "site scales": {"site_scales": {"q_proj": 0.5}},
    "half floats": {"dtype": "BF16"},
    "true ranks": {"compact": True},
}


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_what_plain_lego_takes_it_takes_to_the_same_shapes(
    given: dict[str, Any], tmp_path: Path
) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    found = merge(zoo, tmp_path / "m", **given)
    plain = merge(zoo, tmp_path / "plain", preset="paper", **given)
    assert found["warnings"] == plain["warnings"]
    merged, wanted = update_of(tmp_path / "m"), update_of(tmp_path / "plain")
    assert {k: v.shape for k, v in merged.items()} == {k: v.shape for k, v in wanted.items()}
    assert all(np.isfinite(update).all() for update in merged.values())
    assert lego_ray.verify(tmp_path / "m", sources=zoo).ok


def test_adapters_that_were_never_trained_or_that_cancel_are_merged(tmp_path: Path) -> None:
    for number in range(2):
        write_adapter(tmp_path / "zero" / f"a{number}", seed=number, zero_b=True)
        write_adapter(tmp_path / "opposed" / f"a{number}", seed=1)
    merge(tmp_path / "zero", tmp_path / "m")
    assert not any(update.any() for update in update_of(tmp_path / "m").values())
    merge(tmp_path / "opposed", tmp_path / "o", rank=4, weights={"a1": -1.0})
    one = update_of(tmp_path / "opposed" / "a0")
    for site, update in update_of(tmp_path / "o").items():  # the cap is twice the norm of one
        assert np.linalg.norm(update) <= 2 * (1 + LONE) * np.linalg.norm(one[site])


def test_full_weights_go_through_as_with_plain_lego(tmp_path: Path) -> None:
    for number in range(2):
        head = {"base_model.model.score.weight": torch.full((3, 4), 1.0 + number)}
        more: dict[str, Any] = {"full_weights": head, "modules_to_save": ["score"]}
        write_adapter(tmp_path / "zoo" / f"a{number}", seed=number, **more)
    for full_weights in ("drop", "keep:a1"):
        given: dict[str, Any] = {"full_weights": full_weights}
        found, plain = tmp_path / f"m-{full_weights}", tmp_path / f"p-{full_weights}"
        merge(tmp_path / "zoo", found, **given)
        merge(tmp_path / "zoo", plain, preset="paper", **given)
        assert files_of(found).keys() == files_of(plain).keys()


def test_a_pool_that_is_spread_gives_the_bytes_of_one_that_is_not(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 12, sites=wide_site(256), rank=16)
    low, high = 1 << 20, lego_ray.plan(zoo, rank=6).peak_bytes
    while high - low > 4096:  # the least budget at which no site is refused
        budget = (low + high) // 2
        try:
            lego_ray.plan(zoo, rank=6, memory_budget=budget)
            high = budget
        except InvalidOption:
            low = budget
    plan = lego_ray.plan(zoo, rank=6, memory_budget=high)
    assert max(len(task.shards) for task in plan.tasks) > 1
    merge(zoo, tmp_path / "spread", memory_budget=high)
    merge(zoo, tmp_path / "whole")
    assert weights_of(tmp_path / "spread") == weights_of(tmp_path / "whole")
