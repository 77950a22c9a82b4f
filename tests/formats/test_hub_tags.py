"""What hubs say of a LoRA becomes tags; garbage is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lego_ray
from lego_ray.formats.hub_tags import SIDECARS, parse_sidecar, tags_in_header
from lego_ray.formats.model_card import ModelCard
from tests.image_zoo import write_kohya

# As Civitai Helper, LoRA Manager, Stability Matrix and the web UI write them, shortened.
VERSION: dict[str, Any] = {
    "id": 1,
    "name": "v1.0",
    "baseModel": "SDXL 1.0",
    "trainedWords": ["inkwash", "inkwash style,"],
    "model": {"name": "Ink wash", "type": "LORA", "tags": ["style", "ink"]},
    "files": [{"hashes": {"SHA256": "00"}}],
}
MANAGER = {
    "model_name": "Ink wash",
    "base_model": "SDXL 1.0",
    "tags": ["style"],
    "civitai": VERSION,
}
MATRIX = {
    "ModelName": "Ink wash",
    "BaseModel": "SDXL 1.0",
    "TrainedWords": ["inkwash", "inkwash style"],
    "Tags": ["style"],
}
WEB_UI = {"activation text": "inkwash, ", "sd version": "SDXL", "preferred weight": 0.8}


@pytest.mark.parametrize(
    ("content", "tags"),
    [
        (VERSION, {"title": "Ink wash", "style": "true", "ink": "true"}),
        (MANAGER, {"title": "Ink wash", "style": "true"}),
        (MATRIX, {"title": "Ink wash", "style": "true"}),
    ],
)
def test_the_files_of_each_tool_are_read(content: Any, tags: dict[str, str]) -> None:
    words = {"base": "SDXL 1.0", "trigger_words": "inkwash, inkwash style"}
    assert parse_sidecar(json.dumps(content).encode()).tags == tags | words


def test_the_web_ui_writes_words_in_a_line() -> None:
    found = parse_sidecar(json.dumps(WEB_UI).encode())
    assert found.tags == {"base": "SDXL", "trigger_words": "inkwash"}


def test_a_header_tells_words_title_and_license() -> None:
    found = tags_in_header(
        {
            "modelspec.title": "Ink wash",
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.trigger_phrase": "inkwash",
            "modelspec.tags": "style, ink",
            "modelspec.license": "CreativeML Open RAIL-M",
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_tag_frequency": "{}",
        }
    )
    assert found == ModelCard(
        license="CreativeML Open RAIL-M",
        tags={
            "title": "Ink wash",
            "architecture": "stable-diffusion-xl-v1-base",
            "base": "sdxl_base_v1-0",
            "trigger_words": "inkwash",
            "style": "true",
            "ink": "true",
        },
    )
    assert tags_in_header({"format": "pt"}) == ModelCard()


ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["civitai", "model", "tags", "Tags", "trainedWords", "name", "sd version"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | ANY.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_no_error(data: bytes) -> None:
    found = parse_sidecar(data)
    assert all(isinstance(x, str) and x for pair in found.tags.items() for x in pair)
    assert parse_sidecar(b"[" * 100_000) == ModelCard()


@pytest.mark.parametrize("ending", SIDECARS)
def test_tags_of_a_zoo_come_from_files_beside_and_cards_come_first(
    tmp_path: Path, ending: str
) -> None:
    zoo = tmp_path / "zoo"
    for name in ("ink", "oil"):
        write_kohya(zoo / f"{name}.safetensors", seed=len(name))
    (zoo / f"ink{ending}").write_text(json.dumps(VERSION))
    ink, oil = lego_ray.plan(zoo, rank=2, checkpoints="all").adapters
    assert ink.tags["trigger_words"] == "inkwash, inkwash style"
    assert ink.tags["base"] == "SDXL 1.0"  # of the file beside, not of the header
    assert oil.tags == {"base": "sd_v1"}
    (zoo / "README.md").write_text("---\ntags: [base=mine]\n---\n")
    ink, oil = lego_ray.plan(zoo, rank=2, checkpoints="all").adapters
    assert (ink.tags["base"], oil.tags["base"]) == ("mine", "mine")
    assert ink.tags["title"] == "Ink wash"


def test_the_card_of_a_merge_lists_the_words_of_its_sources(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    for number, name in enumerate(("ink", "oil", "pen")):
        write_kohya(zoo / f"{name}.safetensors", seed=number)
    (zoo / "ink.civitai.info").write_text(json.dumps(VERSION))
    (zoo / "pen.json").write_text(json.dumps({"activation text": "`pen` <b>"}))
    lego_ray.merge(zoo, rank=2, output=tmp_path / "m", runner="inline")
    card = (tmp_path / "m" / "README.md").read_text()
    listed = card.partition("## Trigger words")[2].partition("## ")[0]
    assert "- `ink.safetensors`: `inkwash, inkwash style`" in listed
    assert "`pen.safetensors`: <code>&#96;pen&#96; &#60;b&#62;</code>" in listed
    assert "oil" not in listed
