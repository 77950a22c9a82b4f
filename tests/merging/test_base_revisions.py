"""A merge names the revision of its base model that its adapters name, as PEFT reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig

import lego_ray
from lego_ray.errors import BaseModelMismatch
from tests.zoo import CONFIG, write_adapter


def merged(tmp_path: Path, **options: Any) -> Path:
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "out", rank=4, runner="inline", **options)
    return tmp_path / "out"


@pytest.mark.parametrize("others", ["v2", None])
def test_the_revision_is_carried_over(others: str | None, tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "a", seed=1, revision="v2")
    write_adapter(tmp_path / "zoo" / "b", seed=2, revision=others)
    out = merged(tmp_path)
    assert PeftConfig.from_pretrained(str(out)).revision == "v2"
    assert "| its revision | `v2` |" in (out / "README.md").read_text()


@pytest.mark.parametrize("revision", [None, "", "main"])
def test_the_default_is_left_out_as_ever(revision: str | None, tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "a", seed=1, revision=revision)
    write_adapter(tmp_path / "zoo" / "b", seed=2)
    assert "revision" not in json.loads((merged(tmp_path) / CONFIG).read_bytes())


def test_a_revision_of_another_name_is_not_written_for_the_given_one(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "a", seed=1, revision="v2")
    out = merged(tmp_path, base_model="mirror/base")
    assert "revision" not in json.loads((out / CONFIG).read_bytes())


def test_an_update_keeps_the_revision_and_refuses_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter(tmp_path / "zoo" / name, seed=seed, revision="v2")
    out = merged(tmp_path, updatable=True)
    same = write_adapter(tmp_path / "more" / "c", seed=3, revision="v2")
    other = write_adapter(tmp_path / "more" / "d", seed=4, revision="v3")
    with pytest.raises(BaseModelMismatch, match=r"revision v3 .* the merge v2"):
        lego_ray.update(out, add=[other], output=tmp_path / "refused", runner="inline")
    assert not (tmp_path / "refused" / CONFIG).exists()
    lego_ray.update(out, add=[same], output=tmp_path / "next", runner="inline")
    assert PeftConfig.from_pretrained(str(tmp_path / "next")).revision == "v2"
