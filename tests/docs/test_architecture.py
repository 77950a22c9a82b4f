"""The picture of the rooms is that of the contracts which import-linter holds."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from typing import Any

from tests.docs.pages import ROOT, blocks_of, text_of

PAGE = text_of("docs/architecture.md")
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "importlinter"
]["contracts"]
[PICTURE] = [block.text for block in blocks_of(PAGE) if block.language == "mermaid"]


def arrows(shape: str) -> set[tuple[str, str]]:
    return set(re.findall(rf"^ +(\w+) {re.escape(shape)} (\w+)$", PICTURE, re.MULTILINE))


def layers() -> list[list[str]]:
    """The rooms from the top down, those side by side together."""
    [contract] = [c for c in CONTRACTS if c["name"] == "Arrows go down only"]
    return [
        [room.strip().removeprefix("lego_ray.") for room in layer.split("|")]
        for layer in contract["layers"]
    ]


def test_the_boxes_are_the_rooms() -> None:
    rooms = [room for layer in layers() for room in layer]
    assert re.findall(r'^ +(\w+)\["<b>(\w+)</b>', PICTURE, re.MULTILINE) == [(r, r) for r in rooms]
    there = {
        path.stem
        for path in (ROOT / "lego_ray").iterdir()
        # A checkout that is older than a move keeps caches of the room that went.
        if (path.is_dir() and any(path.rglob("*.py"))) or path.suffix == ".py"
    }
    assert there - {"__init__", "__main__"} == set(rooms)


def test_the_arrows_are_the_layers() -> None:
    wanted = {(a, b) for above, below in pairwise(layers()) for a in above for b in below}
    assert arrows("-->") == wanted


def test_a_dotted_arrow_is_the_room_that_may_import_a_library() -> None:
    rooms = {room for layer in layers() for room in layer}
    wanted = set()
    for contract in (c for c in CONTRACTS if c["type"] == "forbidden"):
        barred = {name.removeprefix("lego_ray.") for name in contract["source_modules"]}
        free = (rooms - barred) if barred != {"lego_ray"} else set()
        excepted = {line.split(".")[1] for line in contract.get("ignore_imports", [])}
        wanted |= {
            (room, library) for room in free | excepted for library in contract["forbidden_modules"]
        }
    assert arrows("-.->") == wanted


def test_every_box_is_declared() -> None:
    declared = set(re.findall(r"^ +(\w+)[\[(]", PICTURE, re.MULTILINE))
    assert declared == {end for arrow in arrows("-->") | arrows("-.->") for end in arrow}
