"""Reads through obstore, the Rust object_store: the peer of the S3 benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import obstore
from obstore.store import S3Store as ObstoreS3

from jobs.benchmarks.source_reads import Fetched, ranges_of
from lego_ray.storage.base import ByteRange
from lego_ray.storage.coalesce import coalesce
from lego_ray.storage.places import S3Place
from lego_ray.storage.s3 import S3Store
from lego_ray.storage.uri import parse_uri
from lego_ray.tasks.values import SourceSlice

# What its core does by itself: ranges at most this far apart are one request, none is cut.
MAX_GAP = 1 << 20


def through_obstore(source: SourceSlice) -> Fetched:
    """Reads the ranges of one source, its requests counted by the rule above."""
    ranges = ranges_of(source)
    _get(source.uri, source.weights_key, ranges)
    spans = coalesce(ranges, MAX_GAP)
    return Fetched(sum(span.size for span in spans), len(spans))


@contextmanager
def reading_through_obstore() -> Iterator[None]:
    """Puts obstore under every ranged read from S3 in this process, to time a whole merge with it."""

    def read_ranges(
        store: S3Store, key: str, ranges: Sequence[ByteRange], version: str | None = None
    ) -> Sequence[memoryview]:
        # obstore's ranges take no condition, so the version goes unchecked here.
        return _get(store.uri, key, ranges)

    with patch.object(S3Store, "read_ranges", read_ranges):
        yield


def _get(uri: str, key: str, ranges: Sequence[ByteRange]) -> list[memoryview]:
    parsed = parse_uri(uri)
    if not isinstance(parsed, S3Place):
        raise ValueError(f"{uri} is not on S3.")
    path = f"{parsed.prefix}/{key}" if parsed.prefix else key
    found = obstore.get_ranges(
        _store(parsed.bucket),
        path,
        starts=[wanted.start for wanted in ranges],
        ends=[wanted.end for wanted in ranges],
    )
    return [memoryview(data) for data in found]


@cache
def _store(bucket: str) -> ObstoreS3:
    """One a bucket, for it holds the connections; set up by the environment, as boto3 is."""
    return ObstoreS3(bucket, client_options={"allow_http": True})
