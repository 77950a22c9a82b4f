"""Adapters on the Hub, through a server that speaks its endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import lego_ray
import lego_ray.errors
from tests.image_zoo import write_kohya
from tests.storage.fake_hub import FakeHub, FakeRepo, fake_hub
from tests.zoo import weights_of, wide_site, write_adapter, write_zoo


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def files(zoo: Path) -> dict[str, bytes]:
    return {str(p.relative_to(zoo)): p.read_bytes() for p in zoo.rglob("*") if p.is_file()}


def test_a_repository_merges_as_its_copy_on_disk_does(hub: FakeHub, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    commit = hub.commit(files(zoo))
    here = lego_ray.merge(zoo, rank=4, output=tmp_path / "here", runner="inline")
    there = lego_ray.merge("hf://org/zoo", rank=4, output=tmp_path / "there", runner="inline")
    assert weights_of(tmp_path / "here") == weights_of(tmp_path / "there")
    assert len(here["adapters"]) == len(there["adapters"]) == 3
    for uri in there["adapters"]:
        assert uri.startswith(f"hf://org/zoo@{commit}/")
    manifest = json.loads((tmp_path / "there" / "lego_ray_manifest.json").read_text())
    assert {source["revision"] for source in manifest["sources"]} == {commit}


def test_single_files_of_a_repository_are_adapters_and_sources(
    hub: FakeHub, tmp_path: Path
) -> None:
    for seed, name in enumerate(("one", "deep/two")):
        write_kohya(tmp_path / "zoo" / f"{name}.safetensors", seed=seed)
    commit = hub.commit(files(tmp_path / "zoo"))
    for zoo, output in ((tmp_path / "zoo", "here"), ("hf://org/zoo", "there")):
        record = lego_ray.merge(zoo, rank=4, output=tmp_path / output, name="m", runner="inline")
    there = [f"hf://org/zoo@{commit}/{name}.safetensors" for name in ("deep/two", "one")]
    assert sorted(record["adapters"]) == there
    assert len({(tmp_path / o / "m.safetensors").read_bytes() for o in ("here", "there")}) == 1
    assert lego_ray.verify(tmp_path / "there", sources=there)["ok"]


def test_a_branch_that_moves_on_changes_the_plan_and_a_commit_does_not(
    hub: FakeHub, tmp_path: Path
) -> None:
    first = hub.commit(files(write_zoo(tmp_path / "first", 2)))
    before = lego_ray.plan("hf://org/zoo", rank=4).digest
    pinned = lego_ray.plan(f"hf://org/zoo@{first}", rank=4).digest
    hub.commit(files(write_zoo(tmp_path / "second", 3)))
    assert before == pinned
    assert lego_ray.plan("hf://org/zoo", rank=4).digest != before
    assert lego_ray.plan(f"hf://org/zoo@{first}", rank=4).digest == before


def test_a_repository_costs_few_calls(hub: FakeHub, tmp_path: Path) -> None:
    """What is in it, and each file that is read, once; the Hub limits how many calls it takes."""
    names = [f"org/lora-{number}" for number in range(3)]
    for seed, name in enumerate(names):
        # Larger than what is read at first, so that its header, its end and its tensors are read apart.
        folder = write_adapter(tmp_path / name, seed=seed, sites=wide_site(5000))
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
        hub.repos[name] = FakeRepo()
        hub.repos[name].commit(files(folder))
    sources = [f"hf://{name}" for name in names]
    lego_ray.merge(sources, rank=2, output=tmp_path / "out", runner="inline", n_init=1)
    for name in names:
        asked = [each for each in hub.requests if f"/{name}" in each and "/cdn/" not in each]
        commit = hub.repos[name].refs["main"]
        wanted = ("adapter_config.json", "adapter_model.safetensors", "README.md")
        assert sorted(asked) == sorted(
            [
                f"GET /api/models/{name}?blobs=true",
                *(f"GET /{name}/resolve/{commit}/{file}" for file in wanted),
            ]
        )
