from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_ray.errors import StorageError
from lego_ray.storage.base import ByteRange
from lego_ray.storage.coalesce import check_ranges, coalesce, slice_spans, split
from lego_ray.storage.fetch import fetch_ranges

DATA = bytes(range(256)) * 4


@st.composite
def byte_range(draw: st.DrawFn) -> ByteRange:
    start = draw(st.integers(0, len(DATA)))
    return ByteRange(start, draw(st.integers(start, min(len(DATA), start + 80))))


ranges_of_data = st.lists(byte_range(), max_size=20)


@given(ranges_of_data, st.integers(0, 50))
def test_spans_are_disjoint_and_further_apart_than_the_gap(
    ranges: list[ByteRange], gap: int
) -> None:
    spans = coalesce(ranges, gap)
    for left, right in pairwise(spans):
        assert right.start - left.end > gap


@given(ranges_of_data, st.integers(0, 50))
def test_spans_hold_every_range_and_no_gap_above_the_bound(
    ranges: list[ByteRange], gap: int
) -> None:
    spans = coalesce(ranges, gap)
    wanted = {i for r in ranges for i in range(r.start, r.end)}
    fetched = {i for s in spans for i in range(s.start, s.end)}
    assert wanted <= fetched
    run = 0
    for i in range(len(DATA)):
        run = run + 1 if i in fetched - wanted else 0
        assert run <= gap


@given(ranges_of_data, st.integers(0, 50))
def test_slices_are_the_bytes_asked_for_in_the_order_asked(
    ranges: list[ByteRange], gap: int
) -> None:
    spans = coalesce(ranges, gap)
    buffers = [memoryview(DATA[s.start : s.end]) for s in spans]
    views = slice_spans(ranges, spans, buffers)
    assert [bytes(v) for v in views] == [DATA[r.start : r.end] for r in ranges]


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 300))
def test_split_covers_the_span_in_bounded_near_equal_parts(
    start: int, size: int, most: int
) -> None:
    parts = split(ByteRange(start, start + size), most)
    assert parts[0].start == start
    assert parts[-1].end == start + size
    assert all(a.end == b.start for a, b in pairwise(parts))
    sizes = [p.size for p in parts]
    assert 1 <= min(sizes) <= max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1


@given(ranges_of_data, st.integers(0, 50), st.integers(1, 60), st.integers(1, 4))
def test_fetch_gives_the_same_bytes_whatever_the_request_size_and_threads(
    ranges: list[ByteRange], gap: int, most: int, threads: int
) -> None:
    asked = []

    def fetch(part: ByteRange, into: memoryview) -> None:
        asked.append(part)
        into[:] = DATA[part.start : part.end]

    views = fetch_ranges("x", ranges, fetch, max_gap=gap, max_request=most, threads=threads)
    assert [bytes(v) for v in views] == [DATA[r.start : r.end] for r in ranges]
    assert all(part.size <= most for part in asked)


def test_buffers_can_be_written_to() -> None:
    def fetch(part: ByteRange, into: memoryview) -> None:
        into[:] = DATA[part.start : part.end]

    (view,) = fetch_ranges("x", [ByteRange(3, 9)], fetch, max_gap=0, max_request=99, threads=1)
    assert not view.readonly


def test_the_first_failure_stops_what_has_not_started() -> None:
    started = []

    def fetch(part: ByteRange, into: memoryview) -> None:
        started.append(part)
        raise StorageError("x", "no")

    with pytest.raises(StorageError):
        fetch_ranges("x", [ByteRange(0, 1000)], fetch, max_gap=0, max_request=1, threads=2)
    assert len(started) <= 2


@pytest.mark.parametrize("bad", [ByteRange(-1, 3), ByteRange(5, 3)])
def test_a_range_that_is_none_is_refused(bad: ByteRange) -> None:
    with pytest.raises(StorageError, match="not a valid range"):
        check_ranges("s3://b/k", [ByteRange(0, 1), bad])
