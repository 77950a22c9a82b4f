"""Content decides identity, place and formatting do not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.identity import SAMPLE_BYTES, adapter_id, sample_windows
from lego_ray.formats.site_factors import TensorSpan
from tests.formats.tiny_peft import edit_config, read, save, train, weights_file

SPAN = TensorSpan("a", "F32", (2, 3), 100, 124)
PARTS: dict[str, Any] = {
    "config": b'{"r": 4}',
    "spans": [SPAN],
    "n_bytes": 124,
    "head": b"x" * 24,
    "tail": b"y" * 24,
}


def test_the_same_adapter_elsewhere_has_the_same_id(tmp_path: Path) -> None:
    path = save(train(41), tmp_path / "a")
    shutil.copytree(path, tmp_path / "b")
    config = tmp_path / "b" / "adapter_config.json"
    config.write_text(json.dumps(dict(reversed(json.loads(config.read_text()).items()))))
    assert read(path).adapter_id == read(tmp_path / "b").adapter_id


def test_other_weights_or_settings_have_another_id(tmp_path: Path) -> None:
    first = save(train(42), tmp_path / "a")
    ids = {read(first).adapter_id, read(save(train(43), tmp_path / "b")).adapter_id}
    ids.add(read(edit_config(first, lora_alpha=99)).adapter_id)
    assert len(ids) == 3


def test_a_flipped_bit_at_either_end_counts(tmp_path: Path) -> None:
    path = save(train(44), tmp_path / "a")
    file = weights_file(path)
    data = bytearray(file.read_bytes())
    ids = {read(path).adapter_id}
    for at in (-1, -len(data) + 8 + int.from_bytes(data[:8], "little")):
        data[at] ^= 1
        file.write_bytes(data)
        ids.add(read(path).adapter_id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"config": b'{"r": 5}'},
        {"spans": [replace(SPAN, name="b")]},
        {"spans": [replace(SPAN, dtype="BF16")]},
        {"spans": [replace(SPAN, shape=(3, 2))]},
        {"n_bytes": 125},
        {"head": b"z" * 24},
        {"tail": b"z" * 24},
        {"head": b"x" * 25, "tail": b"y" * 23},
    ],
)
def test_every_part_counts(change: dict[str, Any]) -> None:
    assert adapter_id(**PARTS) != adapter_id(**{**PARTS, **change})


def test_the_order_of_the_table_does_not_count() -> None:
    spans = [SPAN, replace(SPAN, name="b")]
    assert adapter_id(**{**PARTS, "spans": spans}) == adapter_id(**{**PARTS, "spans": spans[::-1]})


def test_the_id_is_pinned() -> None:
    """It names adapters in catalogs: change `_SCHEME` when this has to change."""
    assert adapter_id(**PARTS) == PINNED


PINNED = "fe22bd16975fade0c23ddf973cdc595b2f3ac9938f5e5655d0fa16a686e0ffa2"


def test_windows() -> None:
    assert sample_windows([]) == ((0, 0), (0, 0))
    assert sample_windows([SPAN]) == ((100, 124), (100, 124))
    big = [SPAN, replace(SPAN, start=124, end=124 + 3 * SAMPLE_BYTES)]
    end = 124 + 3 * SAMPLE_BYTES
    assert sample_windows(big) == ((100, 100 + SAMPLE_BYTES), (end - SAMPLE_BYTES, end))


def test_a_broken_configuration_is_malformed() -> None:
    with pytest.raises(MalformedAdapter):
        adapter_id(**{**PARTS, "config": b"nonsense"})
