"""Files made to break readers: `inspect` describes each, and refuses those that a scan refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import lego_ray
from tests.zoo import CONFIG, write_adapter

CORPUS = Path(__file__).parent / "corpus"


def beside_weights(name: str) -> Callable[[Path, bytes], None]:
    def write(place: Path, data: bytes) -> None:
        write_adapter(place)
        (place / name).write_bytes(data)

    return write


def alone(name: str) -> Callable[[Path, bytes], None]:
    def write(place: Path, data: bytes) -> None:
        place.mkdir()
        (place / name).write_bytes(data)

    return write


KINDS: Mapping[str, Callable[[Path, bytes], None]] = {
    "config": beside_weights(CONFIG),
    "card": beside_weights("README.md"),
    "header": alone("x.safetensors"),
    "metadata": alone("x.safetensors"),
    "torch_bin": alone("pytorch_lora_weights.bin"),
}


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_each_is_described_as_a_scan_takes_or_refuses_it(tmp_path: Path, kind: str) -> None:
    files = sorted(path for path in (CORPUS / kind).iterdir() if path.is_file())
    assert files
    for number, file in enumerate(files):
        KINDS[kind](tmp_path / str(number), file.read_bytes())
    shown, scan = lego_ray.inspect(tmp_path), lego_ray.scan(tmp_path)
    json.dumps(shown, allow_nan=False)
    assert [each.uri for each in shown.found if each.status == "taken"] == sorted(
        adapter["uri"] for adapter in scan.adapters
    )
    assert {each.uri: each.reason for each in shown.found if each.status == "refused"} == {
        each["adapter"]: each["reason"] for each in scan.refused
    }
    assert shown.passed_over == sum(len(run["checkpoints"]) for run in scan.passed_over)
