"""A merged value that the element type cannot hold ends a run at once, and costs no finished task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lego_ray
from lego_ray.errors import InvalidOption, OutputExists
from tests.merging.runs import FOLDER, kept
from tests.zoo import Site, update_of, weights_of, write_zoo

SITES = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(6))
# Concatenated, the sources' own factors are written, alpha / r folded in: 2^36 / 4 overflows float16.
HUGE = {"layers.2.q_proj": 2.0**36}


@pytest.fixture
def zoo(tmp_path: Path) -> tuple[Path, int]:
    """A zoo whose third site overflows, and the budget that makes a task of each site."""
    place = write_zoo(tmp_path / "zoo", 3, sites=SITES, alpha_pattern=HUGE)
    whole = lego_ray.plan(place, rank=12, method="concat")
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    return place, budget


def merge(zoo: tuple[Path, int], output: Path, **flags: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "rank": 12,
        "method": "concat",
        "name": "m",
        "runner": "inline",
        **flags,
    }
    return lego_ray.merge(zoo[0], output=output, memory_budget=zoo[1], **asked)


def test_it_is_found_at_the_first_task_it_shows_in(zoo: tuple[Path, int], tmp_path: Path) -> None:
    with pytest.raises(
        InvalidOption, match=r"F16 cannot hold factor A of layers\.2\.q_proj"
    ) as caught:
        merge(zoo, tmp_path / "m", dtype="F16")
    assert "--dtype BF16 or F32" in caught.value.hint
    assert len(kept(tmp_path / "m")) == 3
    assert [path.name for path in (tmp_path / "m").iterdir()] == [FOLDER]


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_another_type_uses_the_finished_tasks(
    dtype: str, zoo: tuple[Path, int], tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption):
        merge(zoo, tmp_path / "m", dtype="F16")
    record = merge(zoo, tmp_path / "m", dtype=dtype)
    assert record["status"] == "published"
    assert record["resumed_sites"] == 3
    fresh = merge(zoo, tmp_path / "fresh", dtype=dtype)
    assert record["merge_id"] == fresh["merge_id"]
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "fresh")
    assert not (tmp_path / "m" / FOLDER).exists()
    assert all(np.isfinite(update).all() for update in update_of(tmp_path / "m").values())


def test_the_same_type_again_says_so_at_once(zoo: tuple[Path, int], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InvalidOption, match="F16 cannot hold"):
            merge(zoo, tmp_path / "m", dtype="F16")
    assert len(kept(tmp_path / "m")) == 3


def test_what_is_merged_otherwise_is_still_another_plan(
    zoo: tuple[Path, int], tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption):
        merge(zoo, tmp_path / "m", dtype="F16")
    with pytest.raises(OutputExists, match="unfinished run of another plan"):
        merge(zoo, tmp_path / "m", dtype="BF16", seed=1)
    with pytest.raises(OutputExists, match="unfinished run of another plan"):
        merge(zoo, tmp_path / "m", dtype="BF16", exclude=["a2"])
