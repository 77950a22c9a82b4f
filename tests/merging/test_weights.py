"""Weights on adapters, held at the level of files: what is merged, recorded and verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption
from tests.zoo import (
    CONFIG,
    mixed_zoo,
    relative_error,
    update_of,
    weights_of,
    write_adapter,
    write_zoo,
)

# Each MSU is a float32 rounding of sqrt(weight * scaling) times a source's.
F32_ROUNDING = 8 * 2.0**-24


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    return lego_ray.merge(
        zoo, output=output, **{"rank": 5, "runner": "inline", "n_init": 2, **options}
    )


def with_alpha(zoo: Path, to: Path, name: str, factor: float) -> Path:
    """The same adapters, the alpha of one multiplied."""
    shutil.copytree(zoo, to)
    config = json.loads((to / name / CONFIG).read_text())
    config["lora_alpha"] *= factor
    (to / name / CONFIG).write_text(json.dumps(config))
    return to


@pytest.mark.parametrize("weight", [2.0, 0.375, 3.0])
def test_a_weight_is_alpha_multiplied_to_the_bit(weight: float, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    merge(zoo, tmp_path / "weighted", weights={"a1": weight})
    merge(with_alpha(zoo, tmp_path / "other", "a1", weight), tmp_path / "scaled")
    assert weights_of(tmp_path / "weighted") == weights_of(tmp_path / "scaled")


def test_the_sum_is_weighted(tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    weights = {"plain": 2.0, "higher": -0.5}
    merge(zoo, tmp_path / "m", rank=30, output_reweight="none", weights=weights)
    wanted: dict[str, Any] = {}
    for path in sorted(zoo.iterdir()):
        for site, part in update_of(path).items():
            wanted[site] = wanted.get(site, 0) + weights.get(path.name, 1.0) * part
    assert relative_error(update_of(tmp_path / "m"), wanted) < F32_ROUNDING


def test_verify_and_the_catalog_agree_and_sources_may_move(tmp_path: Path) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    weights = {"plain": 2.0, "p*": 0.5}
    merge(zoo, tmp_path / "m", weights=weights, catalog=tmp_path / "catalog")
    moved = tmp_path / "moved"
    moved.mkdir()
    for number, path in enumerate(sorted(zoo.iterdir())):
        shutil.copytree(path, moved / str(number))
    errors = lego_ray.verify(tmp_path / "m", sources=zoo).as_json()["errors"]
    there = lego_ray.verify(tmp_path / "m", sources=moved).as_json()["errors"]
    places = [[source.pop("adapter") for source in found["sources"]] for found in (errors, there)]
    assert there == errors
    assert [str(Path(place).parent) for place in places[1]] == [str(moved)] * 5
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT * FROM merge_sites").to_pylist()
    kept = {row["site"]: row["relative_error"] for row in rows}
    for site in errors["sites"]:
        assert kept[site["site"]] == pytest.approx(site["relative_error_to_sum"], rel=1e-6)
    manifest = json.loads((tmp_path / "m" / "lego_ray_manifest.json").read_text())
    found = {Path(s["uri"]).name: s["weight"] for s in manifest["sources"]}
    assert found == {"plain": 2.0, "partial": 0.5, "patterned": 0.5, "higher": 1.0, "rslora": 1.0}
    [row] = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT recipe FROM merges").to_pylist()
    assert json.loads(row["recipe"])["weights"] == weights


def test_weight_zero_is_the_merge_of_the_others(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    record = merge(zoo, tmp_path / "m", weights={"a1": 0})
    assert [Path(uri).name for uri in sorted(record["adapters"])] == ["a0", "a2"]
    assert record["warnings"] == [f"{zoo / 'a1'} has weight 0 and is left out"]
    merge(zoo, tmp_path / "others", exclude=["a1"])
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "others")


def test_a_weight_too_large_for_float32_quarantines_its_adapter(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    record = merge(zoo, tmp_path / "m", weights={"a1": 1e80})
    [refused] = record["refused"]
    assert refused["adapter"] == str(zoo / "a1")
    assert "times its scaling and weight" in refused["reason"]


def test_the_command_line_takes_weights(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "a=b", seed=1)
    write_adapter(tmp_path / "zoo" / "c", seed=2)
    runner = CliRunner()

    def plan(*words: str) -> Any:
        return runner.invoke(cli, ["plan", str(tmp_path / "zoo"), "--rank", "4", *words])

    done = plan("--weight", "a=b=0.5", "--weight", "c=-2", "--json")
    assert done.exit_code == 0, done.output
    found = {Path(a["adapter"]).name: a["weight"] for a in json.loads(done.output)["adapters"]}
    assert found == {"a=b": 0.5, "c": -2.0}
    for words in (("c",), ("=2",), ("c=x",), ("c=1", "--weight", "c=2")):
        assert plan("--weight", *words).exit_code == 2
    # An error of our own goes through main(), which the runner here does not call.
    assert isinstance(plan("--weight", "d=2").exception, InvalidOption)
