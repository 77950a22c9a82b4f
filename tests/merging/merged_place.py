"""A place on disk or S3 with merges below it and their catalog, for tests of what is done to both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.storage.base import Store
from lego_ray.storage.open import open_store
from tests.zoo import write_zoo

MANIFEST = "lego_ray_manifest.json"
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", MANIFEST]
STORES = [pytest.param("file"), pytest.param("s3", marks=pytest.mark.s3)]


@dataclass(frozen=True)
class Place:
    """Where merges are.

    Attributes:
        root: URI of their directories' parent.
        catalog: URI of their catalog, elsewhere.
        zoo: The adapters, on disk.
    """

    root: str
    catalog: str
    zoo: Path

    @property
    def store(self) -> Store:
        """The root."""
        return open_store(self.root)

    def uri(self, name: str) -> str:
        """The output of this name."""
        return f"{self.root}/{name}"

    def merge(self, name: str, *, recorded: bool = True, **options: Any) -> dict[str, Any]:
        """Merges the zoo there."""
        given: dict[str, Any] = {"rank": 4, "runner": "inline", "n_init": 1, **options}
        sources = given.pop("sources", self.zoo)
        catalog = self.catalog if recorded else None
        return lego_ray.merge(sources, output=self.uri(name), catalog=catalog, **given)

    def contents(self) -> dict[str, bytes]:
        """Every object below the root, by key."""
        store = self.store
        return {info.key: store.read(info.key) for info in store.list()}

    def rewrite(self, key: str, data: bytes) -> None:
        """Puts other bytes in an object's place."""
        self.store.delete(key)
        self.store.create(key, data)

    def marked(self, name: str, plan: str = "e" * 64, **more: Any) -> None:
        """Leaves there what a run does that ended early: its marker and a finished task."""
        marker = {"checkpoint_version": 1, "plan": plan, "name": name, **more}
        self.store.create(f"{name}/.lego-ray/run.json", json.dumps(marker).encode())
        self.store.create(f"{name}/.lego-ray/{plan}/00000-0123456789abcdef.checkpoint", b"done")


def fresh_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place on the store that is the fixture's parameter, and a zoo of two."""
    zoo = write_zoo(tmp_path / "zoo", 2)
    if getattr(request, "param", "file") == "file":
        (tmp_path / "out").mkdir()
        return Place(str(tmp_path / "out"), str(tmp_path / "catalog"), zoo)
    bucket: str = request.getfixturevalue("s3_bucket")
    return Place(f"s3://{bucket}/out", f"s3://{bucket}/catalog", zoo)


def under(contents: Mapping[str, bytes], name: str) -> list[str]:
    """Names of the files below one output."""
    return sorted(key.removeprefix(f"{name}/") for key in contents if key.startswith(f"{name}/"))
