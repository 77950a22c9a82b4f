"""What is killed: for each command, the state it starts from, and the call."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmarks.synthetic_zoo import build as build_zoo
from jobs.benchmarks.synthetic_zoo import layer_sites
from lego_ray.api.bake import bake
from lego_ray.api.build import build
from lego_ray.api.merge import merge
from lego_ray.api.publish import publish
from lego_ray.api.refresh import refresh
from lego_ray.api.update import update
from lego_ray.audit.collect import collect_garbage
from lego_ray.audit.repair import repair_catalog

RANK = 2
# A holder that was killed holds its lease for so long; the scenes make it look as old.
LEASE = "1m"


@dataclass(frozen=True, slots=True)
class Scene:
    """A command to kill.

    Attributes:
        prepare: Makes the state it starts from, below a directory.
        command: The call; the same again after a kill.
        between: What passes between the two, such as time.
    """

    prepare: Callable[[Path], object]
    command: Callable[[Path], Any]
    between: Callable[[Path], None] = lambda root: None


def zoo(root: Path, name: str = "zoo", adapters: int = 3, seed: int = 0) -> Path:
    """Writes a tiny zoo and gives its path."""
    place = root / name
    build_zoo(place, adapters=adapters, layers=1, rank=2, hidden=8, intermediate=8, seed=seed)
    return place


def merged(root: Path, name: str = "merged", **flags: Any) -> Mapping[str, Any]:
    """Merges the zoo to a directory of this name, with a catalog."""
    asked = {"rank": RANK, "name": "merged", **flags}
    return merge(
        root / "zoo", output=root / name, catalog=root / "catalog", runner="inline", **asked
    )


def _recipe(root: Path) -> Path:
    entries = [{"name": "small", "rank": 1}, {"name": "large", "rank": 3}]
    library = {
        "sources": [str(root / "zoo")],
        "catalog": str(root / "catalog"),
        "output": str(root / "library"),
        "merges": entries,
    }
    place = root / "library.yaml"
    place.write_text(json.dumps(library))
    return place


def _build(root: Path) -> Any:
    return build(root / "library.yaml", runner="inline")


def _before_build(root: Path) -> None:
    zoo(root)
    _recipe(root)


def _refresh(root: Path) -> Any:
    record = refresh(root / "library.yaml", runner="inline", stale_after=LEASE)
    if record["status"] == "busy":
        raise RuntimeError("the lease of a killed refresh is still held")
    return record


def _before_refresh(root: Path) -> None:
    _before_build(root)
    _refresh(root)
    zoo(root, "zoo/more", adapters=1, seed=7)


def _age_leases(root: Path) -> None:
    long_ago = time.time() - 3600
    for path in (root / "library" / ".lego-ray").rglob("*"):
        os.utime(path, (long_ago, long_ago))


def _before_update(root: Path) -> None:
    zoo(root)
    zoo(root, "more", adapters=1, seed=7)
    merged(root, updatable=True)


def _update(root: Path, **flags: Any) -> Any:
    return update(
        root / "merged",
        add=root / "more",
        output=root / "updated",
        catalog=root / "catalog",
        runner="inline",
        **flags,
    )


def _before_publish(root: Path) -> None:
    zoo(root)
    merged(root)


def _before_compact(root: Path) -> None:
    zoo(root)
    for rank in (1, 2, 3):
        merged(root, f"merged-{rank}", rank=rank)


def _compact(root: Path) -> Any:
    from lego_ray.catalog import compact

    return compact(root / "catalog")


def _vacuum(root: Path) -> Any:
    from lego_ray.catalog import vacuum

    return vacuum(root / "catalog", retention="0m", force=True)


def _before_vacuum(root: Path) -> None:
    _before_compact(root)
    _compact(root)


def _before_gc(root: Path) -> None:
    _before_publish(root)
    merge(root / "zoo", rank=1, output=root / "library" / "unrecorded", runner="inline")


def _gc(root: Path) -> Any:
    return collect_garbage(
        root / "catalog", root=root / "library", older_than="0m", force=True, delete=True
    )


def _before_repair(root: Path) -> None:
    """A catalog as two compactions at once left it in earlier releases: rows of every table doubled."""
    from deltalake import write_deltalake

    from lego_ray.catalog.opening import open_catalog

    zoo(root)
    merged(root)
    merged(root, "again", rank=1)
    opened = open_catalog(root / "catalog")
    for table in opened.tables():
        handle = opened.open(table)
        write_deltalake(handle, opened.whole(table).to_table(), mode="append")


def _repair(root: Path) -> Any:
    return repair_catalog(root / "catalog", apply=True)


def _before_bake(root: Path) -> None:
    """A merge, and its base model in two files and an index."""
    import torch
    from safetensors.torch import save_file

    _before_publish(root)
    base = root / "base"
    base.mkdir()
    listed = {}
    for number, (module, d_in, d_out) in enumerate(layer_sites(8, 8)):
        name = f"model-{number % 2 + 1:05}-of-00002.safetensors"
        key = f"model.layers.0.{module}.weight"
        weight = torch.arange(d_out * d_in, dtype=torch.float32).reshape(d_out, d_in) / 64 + number
        listed[key] = (name, weight)
    for name in {name for name, _ in listed.values()}:
        held = {key: weight for key, (its, weight) in listed.items() if its == name}
        save_file(held, base / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for key, (name, _) in listed.items()}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (base / "tokenizer.json").write_text("{}")


def _bake(root: Path) -> Any:
    return bake(root / "merged", base=root / "base", output=root / "baked")


SCENES = {
    "merge": Scene(lambda root: zoo(root), lambda root: merged(root)),
    "build": Scene(_before_build, _build),
    "update": Scene(_before_update, _update),
    "refit": Scene(_before_update, lambda root: _update(root, refit=True)),
    "refresh": Scene(_before_refresh, _refresh, _age_leases),
    "publish": Scene(_before_publish, lambda root: publish(root / "merged", to=root / "copy")),
    "bake": Scene(_before_bake, _bake),
    "compact": Scene(_before_compact, _compact),
    "vacuum": Scene(_before_vacuum, _vacuum),
    "gc": Scene(_before_gc, _gc),
    "repair": Scene(_before_repair, _repair),
}
