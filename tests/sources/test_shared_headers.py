"""Adapters with equal headers have them parsed once, and are what each is by itself."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lego_ray
from lego_ray.formats import safetensors_header
from lego_ray.formats.record import AdapterRecord, sharing_sites
from lego_ray.planning.inventory import Inventory
from lego_ray.sources import shared_headers
from lego_ray.sources.headers import scan_sources
from lego_ray.tasks.cut import tasks_of
from tests.image_zoo import write_diffusers, write_kohya
from tests.kinds_zoo import KINDS, kind_file
from tests.zoo import CONFIG, CONV, LINEAR, WEIGHTS, write_adapter, write_zoo

CARDS = ("license: mit\ntags: [task:one]", "base_model: acme/other\nlicense: apache-2.0")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Adapters of many kinds, each twice and three times with other weights or other cards."""
    root = tmp_path / "zoo"
    full = {"base_model.model.classifier.weight": torch.ones(3, 4)}
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "louder": {"alpha": 32},
        "rslora": {"rslora": True},
        "half": {"dtype": "BF16"},
        "patterns": {"rank_pattern": {LINEAR[0].name: 2}, "alpha_pattern": {LINEAR[0].name: 3}},
        "conv": {"sites": (CONV,)},
        "saved": {"modules_to_save": ["classifier"], "full_weights": full},
        "dora": {"use_dora": True},
    }
    for name, options in kinds.items():
        for number in range(3):
            write_adapter(root / name / str(number), seed=number + 1, **options)
    for number, card in enumerate(CARDS):
        (root / "plain" / str(number) / "README.md").write_text(f"---\n{card}\n---\n")
    files = root / "files"
    for number in range(2):
        write_kohya(files / f"kohya-{number}.safetensors", seed=number)
        write_kohya(files / f"quiet-{number}.safetensors", seed=number, alpha=None)
        write_diffusers(files / f"diffusers-{number}.safetensors", seed=number)
        for kind in KINDS:
            tensors, _ = kind_file(kind, seed=number)
            save_file(tensors, files / f"{kind.replace(' ', '-')}-{number}.safetensors")
    return root


def scanned(places: list[Path], **options: Any) -> Inventory:
    return scan_sources([str(place) for place in places], **options).inventory


@pytest.mark.parametrize("full_weights", ["refuse", "drop", "average"])
def test_each_is_what_it_is_by_itself(zoo: Path, full_weights: str) -> None:
    options = {"full_weights": full_weights, "checkpoints": "all"}
    together = scanned([zoo], **options)
    places = sorted({*(p.parent for p in zoo.rglob(CONFIG)), *zoo.glob("files/*")})
    apart = [scanned([place], **options) for place in places]
    alone = {a.uri: a for each in apart for a in each.adapters}
    assert len(alone) > 40
    for adapter in together.adapters:
        assert adapter == alone[adapter.uri]
    assert len(together.adapters) == len(alone)
    refused = sorted((r.uri, r.reason) for each in apart for r in each.refused)
    assert sorted((r.uri, r.reason) for r in together.refused) == refused


def test_equal_headers_are_parsed_once_and_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: Counter[int] = Counter()

    def counted(header: bytes, n_bytes: int, where: str) -> Any:
        parsed[len(header)] += 1
        return safetensors_header.parse_header(header, n_bytes, where)

    monkeypatch.setattr(shared_headers, "parse_header", counted)
    monkeypatch.setattr("lego_ray.sources.headers.THREADS", 1)
    write_zoo(tmp_path / "zoo", 6)
    write_adapter(tmp_path / "zoo" / "smaller", sites=LINEAR[:1])
    inventory = scanned([tmp_path / "zoo"])
    assert sorted(parsed.values()) == [1, 1]
    groups = [len(alike) for alike in sharing_sites(inventory.adapters)]
    assert sorted(groups) == [1, 6]


def test_sites_are_kept_once_where_only_the_metadata_differs(tmp_path: Path) -> None:
    for number in range(3):
        metadata = {"ss_base_model_version": "sd_v1", "ss_seed": str(number)}
        write_kohya(tmp_path / f"{number}.safetensors", seed=number, metadata=metadata)
    found = scanned([tmp_path]).adapters
    assert len({a.adapter_id for a in found}) == 3
    assert [len(alike) for alike in sharing_sites(found)] == [3]


def test_the_configuration_counts_and_not_the_header_alone(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", alpha=8)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    fields = json.loads((tmp_path / "b" / CONFIG).read_text())
    (tmp_path / "b" / CONFIG).write_text(json.dumps({**fields, "lora_alpha": 4}))
    a, b = scanned([tmp_path]).adapters
    assert [s.scaling for s in a.sites] == [2 * s.scaling for s in b.sites]


def test_a_damaged_file_is_named_though_its_header_is_anothers(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    short = zoo / "a1" / WEIGHTS
    short.write_bytes(short.read_bytes()[:-4])
    plan = lego_ray.plan(zoo, rank=2)
    assert [a.uri for a in plan.adapters] == [str(zoo / "a0")]
    (refused,) = plan.refused
    assert refused.uri == str(zoo / "a1")
    assert str(short) in refused.reason


def test_more_kinds_than_are_kept_are_all_read(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {a.uri: a for a in scanned([zoo], checkpoints="all").adapters}
    monkeypatch.setattr(shared_headers, "KEPT", 2)
    after: dict[str, AdapterRecord] = {a.uri: a for a in scanned([zoo], checkpoints="all").adapters}
    assert after == before


def test_what_adapters_share_is_sent_to_a_worker_once(tmp_path: Path) -> None:
    sizes = []
    for name, count in (("few", 4), ("many", 40)):
        plan = lego_ray.plan(write_zoo(tmp_path / name, count), rank=2)
        (task,) = tasks_of(plan)
        assert [len(source.factors) for source in task.sources] == [len(LINEAR)] * count
        sizes.append(len(pickle.dumps(task)))
    (factors,) = {id(s.factors): s.factors for s in task.sources}.values()
    # What an adapter adds is its own place and marks.
    assert (sizes[1] - sizes[0]) / 36 < len(pickle.dumps(factors)) / 2
