"""A zoo with everything bad in it that names and files can be: the good adapters are taken."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import LegoRayError, ObjectNotFound, StorageError
from tests.hostile.held import room_for, tree
from tests.zoo import CONFIG, WEIGHTS, write_adapter

TEBI = 1 << 40
NAMES = {
    "newline": "a\nb",
    "escape": "\x1b]0;taken\x07",
    "right-to-left": "\u202egnp.txt",
    "markup": "<script>`|",
    "glob": "*[a-z]?",
    "percent": "%2e%2e",
    "dashes": "--output",
    "longest": "n" * 255,
    "composed": "é",
    "decomposed": "e\u0301",
    "backslash": "..\\..\\x",
    "spaces": "  ",
}


def sparse(path: Path, head: bytes, size: int) -> Path:
    """A file that takes no room on disk and says it has so many bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def terabytes(path: Path) -> None:
    """A sound adapter except for its size: one site of a terabyte, its bytes as the header says."""
    write_adapter(path)
    config = json.loads((path / CONFIG).read_text("utf-8"))
    (path / CONFIG).write_text(json.dumps({**config, "target_modules": ["x"]}), "utf-8")
    half = TEBI // 2
    spans = {
        "base_model.model.x.lora_A.weight": ((4, half // 16), 0, half),
        "base_model.model.x.lora_B.weight": ((half // 16, 4), half, TEBI),
    }
    table = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        for name, (shape, start, end) in spans.items()
    }
    text = json.dumps(table).encode()
    head = len(text).to_bytes(8, "little") + text
    sparse(path / WEIGHTS, head, len(head) + TEBI)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "zoo"
    write_adapter(root / "good")
    for name in NAMES.values():
        write_adapter(root / "names" / name, seed=2)
    shutil.copytree(root / "good", root / os.fsdecode(b"not-utf8-\xff"))
    sparse(root / "huge-length" / WEIGHTS, b"\xff" * 7 + b"\x7f{}", TEBI)
    (root / "huge-length" / CONFIG).write_text('{"peft_type": "LORA"}')
    sparse(root / "huge-config" / CONFIG, b'{"peft_type": "LORA"', TEBI)
    sparse(root / "huge-card" / "README.md", b"---\n", TEBI)
    sparse(root / "huge-bin" / "adapter_model.bin", b"PK\x03\x04", TEBI)
    (root / "huge-bin" / CONFIG).write_text('{"peft_type": "LORA"}')
    (root / "rank" / CONFIG).parent.mkdir()
    (root / "rank" / CONFIG).write_text('{"peft_type": "LORA", "r": 1099511627776}')
    (root / "rank" / WEIGHTS).write_bytes((root / "good" / WEIGHTS).read_bytes())
    (root / "loop").mkdir()
    (root / "loop" / "again").symlink_to(root)
    (root / "loop" / "itself").symlink_to("itself")
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / WEIGHTS)
    os.mkfifo(root / "pipe" / CONFIG)
    (root / "zero").mkdir()
    (root / "zero" / CONFIG).symlink_to("/dev/zero")
    (root / "zero" / WEIGHTS).symlink_to("/dev/zero")
    return root


@pytest.mark.timeout(60)
def test_what_promises_terabytes_is_refused_before_anything_is_allocated(zoo: Path) -> None:
    lego_ray.scan(zoo / "good")  # loads what a scan needs
    with room_for(1 << 30):
        record = lego_ray.scan(zoo)
    refused = {Path(r["adapter"]).name: r["reason"] for r in record["refused"]}
    assert {"huge-length", "huge-config", "huge-bin", "rank"} <= refused.keys()
    assert "not-utf8-\\udcff" in refused
    assert "pipe" not in refused
    taken = {Path(a["uri"]).name for a in record["adapters"]}
    assert taken >= {"good", *NAMES.values()}


@pytest.mark.timeout(120)
def test_a_terabyte_that_is_there_is_planned_or_refused_and_never_read(tmp_path: Path) -> None:
    terabytes(tmp_path / "zoo" / "huge")
    write_adapter(tmp_path / "zoo" / "good", seed=1)
    lego_ray.scan(tmp_path / "zoo" / "good")
    with room_for(1 << 30):
        assert len(lego_ray.scan(tmp_path / "zoo")["adapters"]) == 2
        with pytest.raises(LegoRayError, match="memory"):
            lego_ray.merge(
                tmp_path / "zoo", rank=2, output=tmp_path / "m", runner="inline", method="svd"
            )
    assert not (tmp_path / "m").exists()


@pytest.mark.timeout(120)
def test_names_reach_a_merge_and_all_it_writes_and_nothing_else(zoo: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert before == {}
    options: dict[str, Any] = {"rank": 4, "runner": "inline", "catalog": tmp_path / "catalog"}
    record = lego_ray.merge(zoo / "names", output=tmp_path / "m", **options)
    assert {Path(uri).name for uri in record["adapters"]} == set(NAMES.values())
    assert {path.name for path in tmp_path.iterdir()} == {"m", "catalog"}
    assert lego_ray.check_catalog(tmp_path / "catalog", deep=True)["ok"]
    assert lego_ray.verify(tmp_path / "m", sources=zoo / "names")["ok"]
    shown = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT uri FROM adapters ORDER BY uri")
    assert sorted(Path(uri).name for uri in shown["uri"].to_pylist()) == sorted(NAMES.values())


def test_what_commands_print_does_nothing_to_a_terminal(zoo: Path, tmp_path: Path) -> None:
    scanned = CliRunner().invoke(cli, ["scan", str(zoo)], color=True)
    assert scanned.exit_code == 0, scanned.output
    assert "good" in scanned.output
    plain = re.sub("\x1b\\[(1|33|0)m", "", scanned.output)  # heads of tables, and warnings
    assert plain != scanned.output
    for character in "\x1b\x07\u202e":
        assert character not in plain
    words = ["scan", str(zoo), "--json"]
    assert json.loads(CliRunner().invoke(cli, words).stdout)["adapters"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "zero", "directory", "terabyte"])
@pytest.mark.parametrize("name", ["lego_ray_manifest.json", ".lego-ray/run.json"])
def test_a_file_that_is_none_is_never_waited_for(kind: str, name: str, tmp_path: Path) -> None:
    zoo = write_adapter(tmp_path / "zoo" / "a").parent
    place = tmp_path / "m" / name
    place.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "zero":
        place.symlink_to("/dev/zero")
    elif kind == "directory":
        place.mkdir()
    else:
        sparse(place, b"{", TEBI)
    calls: list[Callable[[], object]] = [
        lambda: lego_ray.verify(tmp_path / "m"),
        lambda: lego_ray.status(tmp_path / "m"),
        lambda: lego_ray.publish(tmp_path / "m", to=tmp_path / "copy"),
        lambda: lego_ray.merge(zoo, rank=2, output=tmp_path / "m", runner="inline"),
    ]
    with room_for(1 << 30):
        for call in calls[:3]:
            with pytest.raises((ObjectNotFound, StorageError)):
                call()
        if kind != "directory":
            with pytest.raises(LegoRayError):
                calls[3]()


@pytest.mark.timeout(30)
def test_a_recipe_that_is_a_pipe_or_a_terabyte_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    sparse(tmp_path / "huge.yaml", b"a: b\n", TEBI)
    for name in ("pipe.yaml", "huge.yaml"):
        with room_for(1 << 30), pytest.raises(StorageError):
            lego_ray.build(tmp_path / name, runner="inline")
