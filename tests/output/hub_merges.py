"""Merges to publish on a fake Hub, and what is there and here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lego_ray
from lego_ray.output.leaving import for_elsewhere
from tests.storage.fake_hub import FakeRepo
from tests.zoo import write_zoo

TOKEN = "hf_plantedTokenOfNoOne"
MANIFEST = "lego_ray_manifest.json"
TO = "hf://acme/qa"


def merges(here: Path) -> Path:
    """Makes a zoo; `first` and `second`, two versions of the merge `qa` of it; and `other`, another."""
    zoo = write_zoo(here / "zoo", 3)
    for folder, name, seed in (("first", "qa", 0), ("second", "qa", 1), ("other", "sum", 2)):
        output = here / folder
        more: dict[str, Any] = {"n_init": 1, "seed": seed}
        lego_ray.merge(zoo, rank=4, output=output, name=name, runner="inline", **more)
    return here


def publish(merged: Path, to: str = TO, **options: Any) -> dict[str, Any]:
    return lego_ray.publish(merged, to=to, **options)


def on_disk(merged: Path) -> dict[str, bytes]:
    """The files of a merge, as they leave the machine."""
    files = {file.name: file.read_bytes() for file in merged.iterdir() if file.is_file()}
    _, leaving = for_elsewhere(json.loads(files[MANIFEST]), files)
    assert {k: v for k, v in leaving.items() if k != MANIFEST} == {
        k: v for k, v in files.items() if k != MANIFEST
    }
    return leaving


def on_hub(repo: FakeRepo, ref: str = "main") -> dict[str, bytes]:
    return {key: data for key, data in repo.files(ref).items() if key != ".gitattributes"}
