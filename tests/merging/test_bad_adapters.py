"""One bad adapter never stops the others, and is always named: record, manifest, catalog, card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import NoAdaptersFound, StrictRefusal
from tests.formats.tiny_peft import save, train
from tests.zoo import CONFIG, WEIGHTS, files_of, weights_of, write_adapter, write_zoo

REASONS = {
    "nan": "NonFiniteWeights",
    "infinite": "NonFiniteWeights",
    "truncated": "MalformedAdapter",
    "no-weights": "MalformedAdapter",
    "bad-json": "MalformedAdapter",
    "wrong-rank": "RankMismatch",
    "dora": "UnsupportedAdapter",
    "whole-head": "UnsupportedAdapter",
    "other-method": "UnsupportedAdapter",
}
QUARANTINED = {"nan", "infinite"}


def spoil(path: Path, value: float) -> None:
    """Puts a value no header can show into the middle of the last tensor."""
    tensors = load_file(path / WEIGHTS)
    last = tensors[max(tensors)]
    last.view(-1)[last.numel() // 2] = value
    save_file(tensors, path / WEIGHTS, {"format": "pt"})


def write_bad(root: Path) -> None:
    spoil(write_adapter(root / "nan", seed=11), float("nan"))
    spoil(write_adapter(root / "infinite", seed=12), float("inf"))
    cut = write_adapter(root / "truncated", seed=13) / WEIGHTS
    cut.write_bytes(cut.read_bytes()[:-100])
    (write_adapter(root / "no-weights", seed=14) / WEIGHTS).unlink()
    (write_adapter(root / "bad-json", seed=15) / CONFIG).write_text("{")
    write_adapter(root / "wrong-rank", seed=16, r=5)
    save(train(seed=17, use_dora=True, target_modules=["q_proj"]), root / "dora")
    head = {"base_model.model.score.weight": torch.ones(3, 10)}
    write_adapter(root / "whole-head", seed=18, full_weights=head, modules_to_save=["score"])
    write_adapter(root / "other-method", seed=19, peft_type="OFT")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_zoo(root / "zoo" / "good", 3)
    write_bad(root / "zoo")
    return root


@pytest.fixture(scope="module")
def record(place: Path) -> dict[str, Any]:
    return merge(place / "zoo", place / "m", catalog=place / "catalog")


def merge(sources: Path, output: Path, **options: Any) -> dict[str, Any]:
    return lego_ray.merge(sources, output=output, **{"rank": 5, "runner": "inline", **options})


def named(refused: list[dict[str, str]]) -> dict[str, str]:
    """The error's class of each, by the adapter's name."""
    return {Path(r["adapter"]).name: r["reason"].partition(":")[0] for r in refused}


def test_the_record_names_each_with_a_typed_reason(record: dict[str, Any], place: Path) -> None:
    assert named(record["refused"]) == REASONS
    assert record["adapters"] == sorted(
        (str(place / "zoo" / "good" / f"a{i}") for i in range(3)),
        key=record["adapters"].index,
    )
    assert len(record["adapters"]) == 3


def test_the_others_merge_as_if_it_had_not_been_there(
    record: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    merge(place / "zoo" / "good", tmp_path / "m")
    assert weights_of(record["output"]) == weights_of(tmp_path / "m")


def test_the_manifest_and_the_card_say_so(record: dict[str, Any], place: Path) -> None:
    manifest = json.loads((place / "m" / "lego_ray_manifest.json").read_text())
    assert named(manifest["refused"]) == REASONS
    assert {Path(r["adapter"]).name for r in manifest["refused"] if r["status"] != "refused"} == (
        QUARANTINED
    )
    card = (place / "m" / "README.md").read_text()
    assert all(f"`{name}`" in card for name in REASONS)
    assert str(place) not in card


def test_the_catalog_says_so(record: dict[str, Any], place: Path) -> None:
    query = "SELECT uri, status, reason FROM adapters"
    rows = lego_ray.catalog.sql(place / "catalog", query).to_pylist()
    by_name = {Path(row["uri"]).name: row for row in rows}
    assert len(rows) == len(REASONS) + 3
    for name, reason in REASONS.items():
        assert by_name[name]["status"] == ("quarantined" if name in QUARANTINED else "refused")
        assert by_name[name]["reason"].startswith(f"{reason}: ")
    assert all(by_name[f"a{i}"]["status"] == "ok" for i in range(3))


def test_each_reason_says_what_to_do(record: dict[str, Any]) -> None:
    for refused in record["refused"]:
        assert refused["adapter"] in refused["reason"]
        assert refused["reason"].endswith(".")


def test_the_merge_can_be_asked_for_again(record: dict[str, Any], place: Path) -> None:
    """Quarantine changes the plan; the request that led to it is still known as done."""
    before = files_of(place / "m")
    again = merge(place / "zoo", place / "m", catalog=place / "catalog")
    assert again["status"] == "already published"
    assert again["merge_id"] == record["merge_id"]
    assert named(again["refused"]) == REASONS
    assert files_of(place / "m") == before


def test_the_merge_still_verifies(record: dict[str, Any], place: Path) -> None:
    assert lego_ray.verify(place / "m", sources=place / "zoo")["sources"] == 3


@pytest.mark.parametrize("which", ["refused", "quarantined"])
def test_strict_fails_and_writes_nothing(which: str, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    if which == "refused":
        write_adapter(zoo / "bad", use_dora=True)
    else:
        spoil(write_adapter(zoo / "bad", seed=11), float("nan"))
    with pytest.raises(StrictRefusal, match="bad") as caught:
        merge(zoo, tmp_path / "m", strict=True, catalog=tmp_path / "catalog")
    assert caught.value.exit_code == 1
    assert files_of(tmp_path / "m") == {}
    assert files_of(tmp_path / "catalog") == {}


def test_strict_scan_and_plan_fail_too(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "bad", use_dora=True)
    write_adapter(tmp_path / "zoo" / "good")
    with pytest.raises(StrictRefusal):
        lego_ray.scan(tmp_path / "zoo", strict=True, catalog=tmp_path / "catalog")
    with pytest.raises(StrictRefusal):
        lego_ray.plan(tmp_path / "zoo", rank=4, strict=True)
    assert not (tmp_path / "catalog").exists()


def test_all_refused_is_no_adapters(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "a", use_dora=True)
    with pytest.raises(NoAdaptersFound, match="DoRA"):
        merge(tmp_path / "zoo", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_all_quarantined_is_no_adapters(tmp_path: Path) -> None:
    spoil(write_adapter(tmp_path / "zoo" / "a"), float("nan"))
    with pytest.raises(NoAdaptersFound, match="NonFiniteWeights"):
        merge(tmp_path / "zoo", tmp_path / "m", catalog=tmp_path / "catalog")
    assert files_of(tmp_path / "m") == {}
    assert files_of(tmp_path / "catalog") == {}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_quarantine_on_ray_gives_the_same_bytes(record: dict[str, Any], place: Path) -> None:
    again = merge(place / "zoo", place / "on-ray", runner="ray", name="m")
    assert again["merge_id"] == record["merge_id"]
    assert named(again["refused"]) == REASONS
    assert weights_of(place / "on-ray") == weights_of(place / "m")
