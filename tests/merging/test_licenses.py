"""Licenses of the sources are in all a merge leaves behind, and in what is merged of it later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray import MergeRecord
from lego_ray.formats.model_card import parse_card
from tests.zoo import write_adapter

MANIFEST = "lego_ray_manifest.json"


def licensed(path: Path, license: str | None, seed: int) -> Path:
    write_adapter(path, seed=seed)
    if license:
        (path / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    return path


def merge(sources: Any, output: Path, **options: Any) -> MergeRecord:
    return lego_ray.merge(
        sources, output=output, **{"rank": 4, "runner": "inline", "n_init": 1, **options}
    )


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the merge `m` of two licensed adapters and one that names none."""
    here = tmp_path_factory.mktemp("licenses")
    for seed, license in enumerate(("mit", "cc-by-nc-4.0", None), 1):
        licensed(here / "zoo" / f"a{seed}", license, seed)
    record = merge(here / "zoo", here / "m", catalog=here / "catalog")
    (here / "record.json").write_text(json.dumps(record.as_json()))
    return here


def test_plan_merge_manifest_card_and_catalog_say_the_same(merged: Path) -> None:
    planned = lego_ray.plan(merged / "zoo", rank=4, name="m", n_init=1)
    record = json.loads((merged / "record.json").read_text())
    manifest = json.loads((merged / "m" / MANIFEST).read_text())
    [row] = lego_ray.catalog.list_merges(merged / "catalog").to_pylist()
    licenses = ["cc-by-nc-4.0", "mit", "unknown"]
    for told in (planned.as_json(), record, manifest, row):
        assert told["licenses"] == licenses
    conflicts = list(planned.license_conflicts)
    assert [
        any(word in text for text in conflicts) for word in ("no commercial", "no license")
    ] == [
        True,
        True,
    ]
    assert record["warnings"] == conflicts
    assert manifest["license_conflicts"] == row["license_conflicts"] == conflicts
    card = (merged / "m" / "README.md").read_bytes()
    assert parse_card(card).license == ", ".join(licenses)
    named = [text.replace(f"{merged / 'zoo'}/", "") for text in conflicts]
    assert all(text in card.decode() for text in named)


def test_the_same_merge_again_warns_again(merged: Path) -> None:
    record = json.loads((merged / "record.json").read_text())
    again = merge(merged / "zoo", merged / "m", catalog=merged / "catalog")
    assert again["status"] == "already published"
    assert again["warnings"] == record["warnings"]
    assert again["licenses"] == record["licenses"]


def test_a_merge_of_the_merged_adapter_carries_its_licenses(merged: Path, tmp_path: Path) -> None:
    other = licensed(tmp_path / "other", "apache-2.0", 9)
    record = merge([merged / "m", other], tmp_path / "m2")
    assert record["licenses"] == ["apache-2.0", "cc-by-nc-4.0", "mit", "unknown"]


def test_one_license_is_carried_as_it_is(tmp_path: Path) -> None:
    for seed in (1, 2):
        licensed(tmp_path / "zoo" / f"a{seed}", "cc-by-nc-4.0", seed)
    record = merge(tmp_path / "zoo", tmp_path / "m")
    assert record["warnings"] == []
    card = (tmp_path / "m" / "README.md").read_bytes()
    assert parse_card(card).license == "cc-by-nc-4.0"
    assert b"## Licenses" not in card


def test_the_catalog_knows_the_merged_adapter_by_the_id_a_scan_gives_it(merged: Path) -> None:
    [found] = lego_ray.scan(merged / "m")["adapters"]
    [row] = lego_ray.catalog.list_merges(merged / "catalog").to_pylist()
    assert row["output_adapter_id"] == found["adapter_id"]
    assert (row["n_sites"], row["n_msus"]) == (4, 48)
