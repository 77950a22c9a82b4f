from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_ray.errors import StorageError
from lego_ray.storage import FileStore, RangedFile
from lego_ray.storage.ranged_file import BLOCK, MAX_BLOCKS

DATA = os.urandom(3 * BLOCK + 777)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FileStore:
    store = FileStore(tmp_path_factory.mktemp("ranged"))
    store.create("data", DATA)
    return store


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]),
            st.integers(-len(DATA) - 9, len(DATA) + 9),
            st.integers(-1, 2 * BLOCK),
        ),
        max_size=8,
    )
)
def test_it_reads_as_a_file_in_memory_does(
    store: FileStore, steps: list[tuple[int, int, int]]
) -> None:
    plain = io.BytesIO(DATA)
    ranged = RangedFile(store, "data", len(DATA))
    for whence, offset, size in steps:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: plain.tell(), io.SEEK_END: len(DATA)}[whence]
        if origin + offset < 0:
            with pytest.raises(ValueError, match="before the start"):
                ranged.seek(offset, whence)
        else:
            assert ranged.seek(offset, whence) == plain.seek(origin + offset)
        assert ranged.read(size) == plain.read(size)
        assert ranged.tell() == plain.tell()


def test_a_zip_directory_is_read_without_the_rest(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for i in range(20):
            file.writestr(f"archive/data/{i}", os.urandom(1 << 20))
    store = FileStore(tmp_path)
    store.create("adapter_model.bin", buffer.getvalue())
    with zipfile.ZipFile(RangedFile(store, "adapter_model.bin", buffer.tell())) as file:
        assert len(file.namelist()) == 20
        file.open("archive/data/7").close()
    assert store.bytes_read <= 4 * BLOCK


def test_the_cache_is_bounded_and_spares_requests(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    size = (MAX_BLOCKS + 10) * BLOCK
    store.create("data", bytes(size))
    file = RangedFile(store, "data", size)
    file.read(10)
    file.read(10)
    assert store.requests == 1
    for index in range(MAX_BLOCKS + 5):
        file.seek(index * BLOCK)
        file.read(1)
    assert len(file._blocks) == MAX_BLOCKS
    file.seek(0)
    # Longer than the cache: fetched once and not kept.
    before = store.bytes_read
    assert len(file.read(size)) == size
    assert store.bytes_read - before == size
    assert len(file._blocks) == MAX_BLOCKS


def test_an_object_shorter_than_said_is_an_error(store: FileStore) -> None:
    with pytest.raises(StorageError):
        RangedFile(store, "data", len(DATA) + 1).read()


def test_a_closed_file_is_not_read(store: FileStore) -> None:
    file = RangedFile(store, "data", len(DATA))
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
