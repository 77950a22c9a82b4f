"""What a scan finds, what it refuses by name, and how little it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lego_ray
from lego_ray.errors import NoAdaptersFound, ObjectNotFound
from tests.formats.tiny_peft import save, train
from tests.zoo import WEIGHTS, files_of, real_adapters, wide_site, write_adapter, write_zoo


def names(record: dict[str, Any]) -> list[str]:
    return sorted(Path(a["uri"]).name for a in record["adapters"])


def test_a_tree_is_searched_to_its_leaves(tmp_path: Path) -> None:
    for place in ("a", "deep/er/b", "deep/c"):
        write_adapter(tmp_path / place, seed=len(place))
    (tmp_path / "notes.txt").write_text("not an adapter")
    assert names(lego_ray.scan(tmp_path)) == ["a", "b", "c"]
    assert names(lego_ray.scan(str(tmp_path / "deep"))) == ["b", "c"]
    assert names(lego_ray.scan([tmp_path / "a", f"file://{tmp_path}/deep/er"])) == ["a", "b"]


def test_a_place_given_twice_counts_once(tmp_path: Path) -> None:
    write_zoo(tmp_path, 2)
    assert names(lego_ray.scan([tmp_path, f"{tmp_path}/", tmp_path / "a0"])) == ["a0", "a1"]


def test_a_record_says_what_the_headers_say(tmp_path: Path) -> None:
    options = {"rank": 4, "rank_pattern": {"layers.0.q_proj": 2}, "dtype": "BF16"}
    path = write_adapter(tmp_path / "a", **options)  # type: ignore[arg-type]
    (path / "README.md").write_text("---\nlicense: mit\ntags:\n- task:qa\n- lora\n---\nHello\n")
    [adapter] = lego_ray.scan(tmp_path)["adapters"]
    expected = {
        "uri": str(path),
        "revision": None,
        "base_model": "tiny/base",
        "format": "peft",
        "rank_min": 2,
        "rank_max": 4,
        "n_sites": 4,
        "n_params": 2 * (12 + 10) + 4 * (12 + 10) + 2 * 4 * (12 + 7),
        "n_bytes": (path / WEIGHTS).stat().st_size,
        "dtype": "BF16",
        "license": "mit",
        "tags": {"task": "qa", "lora": "true"},
    }
    assert {key: adapter[key] for key in expected} == expected
    assert len(adapter["adapter_id"]) == 64


def test_an_adapter_is_known_by_content_wherever_it_lies(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("twin", 1), ("other", 2)):
        write_adapter(tmp_path / name, seed=seed)
    found = lego_ray.scan(tmp_path)["adapters"]
    ids = {Path(a["uri"]).name: a["adapter_id"] for a in found}
    assert ids["a"] == ids["twin"] != ids["other"]


def test_pickled_adapters_are_read_without_running_them(tmp_path: Path) -> None:
    save(train(seed=1), tmp_path / "a", safe=False)
    [adapter] = lego_ray.scan(tmp_path)["adapters"]
    assert (adapter["rank_max"], adapter["n_sites"]) == (4, 9)


def test_keys_of_old_dumps_are_read(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "new")
    old = write_adapter(tmp_path / "old")
    tensors = {
        f"base_model.model.layers.0.q_proj.lora_{half}.default.weight": torch.ones(shape)
        for half, shape in (("A", (4, 12)), ("B", (10, 4)))
    }
    save_file(tensors, old / WEIGHTS)
    record = lego_ray.scan([path, old])
    assert record["refused"] == []
    assert sorted(a["n_sites"] for a in record["adapters"]) == [1, 4]


def test_headers_are_read_and_weights_are_not(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path, 3, sites=wide_site(2048), rank=64)
    n_bytes = sum((path / WEIGHTS).stat().st_size for path in zoo.iterdir())
    record = lego_ray.scan(zoo)
    assert n_bytes > 3_000_000
    # Two windows of 64 KiB of each, and 64 KiB more that came with the header.
    assert record["bytes_read"] < 3 * 200 * 1024


def test_a_base_models_weights_are_passed_over(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    (tmp_path / "base").mkdir()
    save_file({"model.embed.weight": torch.ones(4, 4)}, tmp_path / "base" / "model.safetensors")
    record = lego_ray.scan(tmp_path)
    assert names(record) == ["a"]
    assert record["refused"] == []


def test_heads_beside_real_adapters_are_not_taken_for_weights() -> None:
    record = lego_ray.scan([real_adapters()[0]])
    assert len(record["adapters"]) == 1
    assert record["refused"] == []


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("a1", ["a0", "a2", "b"]),
        ("a?", ["b"]),
        ("sub/*", ["a0", "a1", "a2"]),
        ("*/sub/b", ["a0", "a1", "a2"]),
        ("A1", ["a0", "a1", "a2", "b"]),
    ],
)
def test_exclude_goes_by_name_path_or_uri(pattern: str, left: list[str], tmp_path: Path) -> None:
    write_zoo(tmp_path, 3)
    write_adapter(tmp_path / "sub" / "b", seed=9)
    assert names(lego_ray.scan(tmp_path, exclude=[pattern])) == left
    planned = lego_ray.plan(tmp_path, rank=2, exclude=[pattern])
    assert sorted(Path(a.uri).name for a in planned.adapters) == left


def test_what_is_excluded_is_not_reported_as_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "good")
    write_adapter(tmp_path / "bad", use_dora=True)
    record = lego_ray.scan(tmp_path, exclude=["bad"], strict=True)
    assert record["refused"] == []


def test_scanning_twice_adds_nothing_to_the_catalog(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    write_adapter(zoo / "bad", use_dora=True)
    assert lego_ray.scan(zoo, catalog=tmp_path / "catalog")["new"] == 4
    before = files_of(tmp_path / "catalog")
    assert lego_ray.scan(zoo, catalog=tmp_path / "catalog")["new"] == 0
    assert files_of(tmp_path / "catalog") == before
    write_adapter(zoo / "more", seed=9)
    assert lego_ray.scan(zoo, catalog=tmp_path / "catalog")["new"] == 1


def test_a_merge_of_scanned_adapters_adds_none_of_them_again(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    lego_ray.scan(zoo, catalog=tmp_path / "catalog")
    lego_ray.merge(
        zoo, rank=4, output=tmp_path / "m", catalog=tmp_path / "catalog", runner="inline"
    )
    table = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT uri FROM adapters")
    assert table.num_rows == 3


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match="nowhere") as caught:
        lego_ray.scan(tmp_path / "nowhere", catalog=tmp_path / "catalog")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "catalog").exists()


def test_a_source_that_is_empty(tmp_path: Path) -> None:
    assert lego_ray.scan(tmp_path)["adapters"] == []
    with pytest.raises(NoAdaptersFound, match=str(tmp_path)):
        lego_ray.plan(tmp_path, rank=4)
