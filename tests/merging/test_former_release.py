"""What the release before left is read, resumed and updated as it was.

`tests/fixtures/former` was written by it, of `write_zoo(zoo, 3)` at rank 4: `begun`, a run that was
killed after two of its four tasks; `measuring`, one at rank `auto` that was killed after it measured two
of four sites; `merged`, an updatable merge; and `merged-v2`, its next version with
`write_adapter(new, seed=7)`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray import MergeRecord
from lego_ray.output.manifest import MANIFEST_KEY
from lego_ray.output.running_sums import STATE_KEY, with_about
from lego_ray.planning.plan import Plan
from lego_ray.tasks.values import Progress, TaskResult
from tests.docs.pages import ROOT
from tests.zoo import WEIGHTS, weights_of, write_adapter, write_zoo

FORMER = ROOT / "tests" / "fixtures" / "former"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    shutil.copytree(FORMER, tmp_path / "former")
    write_zoo(tmp_path / "zoo", 3)
    write_adapter(tmp_path / "new", seed=7)
    # A plan of that release had the files' times in it.
    manifest = json.loads((FORMER / "merged" / "lego_ray_manifest.json").read_text())
    for source in manifest["sources"]:
        weights = tmp_path / "zoo" / Path(source["uri"]).name / WEIGHTS
        size, _, time = source["version"].partition("-")
        assert weights.stat().st_size == int(size)
        os.utime(weights, ns=(int(time), int(time)))
    return tmp_path


def merge(place: Path, output: Path, *, updatable: bool = False) -> MergeRecord:
    return lego_ray.merge(
        place / "zoo",
        rank=4,
        output=output,
        name=None if updatable else "m",
        n_init=2,
        runner="inline",
        updatable=updatable,
    )


def test_a_run_that_it_began_is_made_to_the_bytes_of_now(place: Path) -> None:
    """Its finished tasks have the bytes of an earlier arithmetic, and a merge must not mix two."""
    begun = place / "former" / "begun"
    assert lego_ray.status(begun).sites_done == 2
    record = merge(place, begun)
    assert (record.status, record.resumed_sites) == ("published", 0)
    merge(place, place / "whole")
    assert weights_of(begun) == weights_of(place / "whole")
    assert not (begun / ".lego-ray").exists()


def test_a_run_that_it_began_to_measure_is_measured_again(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept of a run names the release that made it; another one reads it and passes it over."""
    begun = place / "former" / "measuring"
    assert lego_ray.status(begun).sites_measured == 2
    measured = []

    def watch(plan: Plan, result: TaskResult | None) -> None:
        if result and plan.recipe.is_open and result.bytes_read:
            measured.append(result.n_sites)

    def merge_auto(output: Path, progress: Progress | None = None) -> MergeRecord:
        given: Any = {"rank": "auto", "name": "m", "n_init": 2, "runner": "inline"}
        return lego_ray.merge(place / "zoo", output=output, progress=progress, **given)

    assert merge_auto(begun, watch).status == "published"
    assert sum(measured) == 4
    assert "it was made by lego-ray 0.1.0" in caplog.text
    merge_auto(place / "whole")
    assert weights_of(begun) == weights_of(place / "whole")


def test_its_merge_is_known_and_stays_as_it_is(place: Path) -> None:
    merged = place / "former" / "merged"
    before = weights_of(merged)
    assert merge(place, merged, updatable=True).status == "already published"
    assert lego_ray.verify(merged, sources=place / "zoo").ok
    assert weights_of(merged) == before
    merge(place, place / "merged", updatable=True)
    config = "adapter_config.json"
    assert (place / "merged" / config).read_bytes() == (merged / config).read_bytes()


def test_its_merge_is_updated_to_the_version_it_made(place: Path) -> None:
    made = place / "former" / "merged-v2"
    lego_ray.update(
        place / "former" / "merged", add=place / "new", output=place / "v2", runner="inline"
    )
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (place / "v2" / name).read_bytes() == (made / name).read_bytes()
    ours, theirs = (
        json.loads((at / "lego_ray_manifest.json").read_text())["merge_id"]
        for at in (place / "v2", made)
    )
    assert ours == theirs
    moved_to(made, "/srv/former/new", place / "new")
    back = lego_ray.update(made, remove="new", output=place / "v3", runner="inline")
    assert back.version == 3
    assert weights_of(place / "v3") == weights_of(place / "former" / "merged")


def moved_to(made: Path, before: str, now: Path) -> None:
    """Has a merge of that release name an adapter where it is on this machine."""

    def renamed(about: dict[str, Any]) -> dict[str, Any]:
        return dict(json.loads(json.dumps(about).replace(before, str(now))))

    sums = made / STATE_KEY
    data = with_about(sums.read_bytes(), renamed)
    sums.write_bytes(data)
    manifest = renamed(json.loads((made / MANIFEST_KEY).read_text()))
    listed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest["files"][STATE_KEY].keys() == listed.keys()
    manifest["files"][STATE_KEY] = listed
    (made / MANIFEST_KEY).write_text(json.dumps(manifest))
