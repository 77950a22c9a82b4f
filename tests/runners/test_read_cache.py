"""Tensors kept between merges: the bits are those of a run that reads, and bounds are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

import lego_ray
from lego_ray.runners.inline import InlineRunner
from lego_ray.tasks.cached import ReadCache
from tests.zoo import mixed_zoo

PLENTY = 2**30


def merged(zoo: Path, output: Path, cache: ReadCache | None, method: str) -> tuple[object, int]:
    runner = InlineRunner(extract=cache.extract if cache else None)
    record = lego_ray.merge(
        zoo, output=output / "merged", rank=6, method=method, runner=runner, dtype="F32"
    )
    runner.close()
    files = {file.name: file.read_bytes() for file in (output / "merged").iterdir()}
    return files, record["bytes_read"]


@pytest.mark.parametrize("most_bytes", [0, 4000, PLENTY])
def test_the_bits_are_those_of_a_run_that_reads(tmp_path: Path, most_bytes: int) -> None:
    zoo, cache = mixed_zoo(tmp_path / "zoo"), ReadCache(most_bytes)
    read = []
    for number, method in enumerate(["lego", "svd", "ties", "lego"]):
        mine, count = merged(zoo, tmp_path / f"{number}", cache, method)
        theirs, _ = merged(zoo, tmp_path / f"{number}-again", None, method)
        assert mine == theirs
        read.append(count)
    headers, all_of_it = min(read), max(read)
    assert read[0] == all_of_it
    if most_bytes == PLENTY:
        assert read[1:] == [headers] * 3 < read[:1] * 3
    if most_bytes == 0:
        assert read == [all_of_it] * 4


def test_no_more_is_kept_than_asked_for(tmp_path: Path) -> None:
    cache = ReadCache(4000)
    merged(mixed_zoo(tmp_path / "zoo"), tmp_path, cache, "svd")
    held = sum(data.nbytes for data, _ in cache._tensors.values())
    assert 0 < held == cache._held <= 4000
