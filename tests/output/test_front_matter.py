from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import metadata_load
from hypothesis import given
from hypothesis import strategies as st

from lego_ray.formats.model_card import parse_card
from lego_ray.output.card.front_matter import front_matter, is_model_id, license_fields
from tests.storage.fake_hub_writes import card_errors


def fields(*args: object) -> dict[str, object]:
    text = front_matter(*args)  # type: ignore[arg-type]
    return dict(yaml.safe_load(text.strip("-\n")))


def test_it_is_what_the_hub_library_reads(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(front_matter("org/base", ["apache-2.0"], ["lora", "merge"]) + "\n\n# Title\n")
    found = metadata_load(card)
    assert found == {
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["lora", "merge"],
        "license": "apache-2.0",
    }
    data: Any = ModelCardData(**found)
    assert data.to_dict() == found


def test_it_is_what_a_scan_reads() -> None:
    card = parse_card(front_matter("org/base", ["mit"], ["lora", "team:qa"]).encode() + b"\n")
    assert (card.license, card.tags) == ("mit", {"lora": "true", "team": "qa"})


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/models/llama",
        "./llama",
        "../llama",
        "org/base/main",
        "org/base\nlicense: mit",
        "a b",
        "C:\\llama",
        "org/..",
        "a--b",
        "\u00e9/base",
        "x" * 97,
        "_",
        "org/_base",
        "_org/base",
    ],
)
def test_a_base_model_the_hub_would_not_take_is_left_out(name: str) -> None:
    assert not is_model_id(name)
    assert fields(name, [], []) == {"library_name": "peft", "tags": []}


@pytest.mark.parametrize(
    ("licenses", "wanted"),
    [
        ([], {}),
        (["mit"], {"license": "mit"}),
        (["Apache-2.0"], {"license": "apache-2.0"}),
        (["Acme Custom v2"], {"license": "other", "license_name": "acme-custom-v2"}),
        (["other"], {"license": "other"}),
        (["\u00e9"], {"license": "other"}),
        (["mit", "gpl-3.0"], {"license": ["mit", "gpl-3.0"]}),
        (["mit", "own one"], {"license": ["mit", "other"], "license_name": "own-one"}),
    ],
)
def test_licenses_are_named_as_the_hub_names_them(
    licenses: list[str], wanted: dict[str, object]
) -> None:
    assert license_fields(licenses) == wanted


@given(st.text(max_size=30), st.lists(st.text(max_size=20), max_size=2))
def test_whatever_the_sources_say_it_is_valid(base: str, tags: list[str]) -> None:
    text = front_matter(base, [base], tags)
    assert text.count("\n---") == 1
    assert card_errors(text + "\n") == []
    assert fields(base, [base], tags)["library_name"] == "peft"
