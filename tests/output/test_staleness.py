"""A checkpoint is used where its adapters are still of the bytes that it is of, and only there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.checkpoints.format import decode_checkpoint
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.sources.headers import scan_sources
from lego_ray.storage.open import open_store
from tests.merging.changing import Change, ChangingRunner, rewritten, touched
from tests.zoo import WEIGHTS, wide_site, write_zoo

SITE = wide_site(6000)  # longer than what an id is taken over


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", 3, sites=SITE, rank=4)


def planned(zoo: Path) -> Plan:
    recipe = Recipe(name="m", rank=2, options={"n_init": 2})
    return make_plan(recipe, scan_sources([str(zoo)]).inventory)


@pytest.fixture
def unfinished(zoo: Path, tmp_path: Path) -> Plan:
    """The plan of a run that was stopped when its tasks were done."""

    def stop() -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"rank": 2, "n_init": 2, "name": "m"}
    runner = ChangingRunner(stop, after=1)
    with pytest.raises(KeyboardInterrupt):
        lego_ray.merge(zoo, output=tmp_path / "m", runner=runner, **options)
    return planned(zoo)


def copied(adapter: Path) -> None:
    """The same bytes, in a file of its own."""
    shutil.copy(adapter / WEIGHTS, adapter / "copy")
    (adapter / "copy").replace(adapter / WEIGHTS)


def kept(plan: Plan, tmp_path: Path, zoo: Path) -> Any:
    """What is kept of a plan, by the name it had, of the adapters as they are now."""
    now = replace(planned(zoo), digest=plan.digest)
    return Checkpoints(open_store(str(tmp_path / "m")), now).load(now)


def test_nothing_is_read_where_no_file_was_written(
    unfinished: Plan, zoo: Path, tmp_path: Path
) -> None:
    found = kept(unfinished, tmp_path, zoo)
    assert found.done == {site.name for site in SITE}
    assert found.bytes_read == 0


@pytest.mark.parametrize("change", [touched, copied])
def test_the_same_bytes_in_a_file_written_again_keep_what_is_done(
    change: Change, unfinished: Plan, zoo: Path, tmp_path: Path
) -> None:
    change(zoo / "a1")
    found = kept(unfinished, tmp_path, zoo)
    assert found.done == {site.name for site in SITE}
    # Of the one adapter, its tensors and no more.
    assert 0 < found.bytes_read < (zoo / "a1" / WEIGHTS).stat().st_size


def test_a_change_that_no_header_and_no_sample_shows_throws_away_what_is_done(
    unfinished: Plan, zoo: Path, tmp_path: Path
) -> None:
    before = [a.adapter_id for a in scan_sources([str(zoo)]).inventory.adapters]
    rewritten(zoo / "a1")
    touched(zoo / "a1")
    assert [a.adapter_id for a in scan_sources([str(zoo)]).inventory.adapters] == before
    found = kept(unfinished, tmp_path, zoo)
    assert found.done == frozenset()
    assert not list((tmp_path / "m").rglob("*.checkpoint"))


def test_a_checkpoint_that_does_not_say_its_versions_is_held_against_the_bytes(
    unfinished: Plan, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lego_ray.output.checkpoints import checkpoints

    monkeypatch.setattr(
        checkpoints,
        "decode_checkpoint",
        lambda *given: replace(decode_checkpoint(*given), sources={}),
    )
    found = kept(unfinished, tmp_path, zoo)
    assert found.done == {site.name for site in SITE}
    assert found.bytes_read > 0
