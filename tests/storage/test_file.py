"""What is particular to a directory as a store."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from lego_ray.errors import (
    AccessDenied,
    AlreadyExists,
    NoSpaceLeft,
    ObjectNotFound,
    SourceChanged,
    StorageError,
    StoreUnavailable,
    UnsafeStore,
)
from lego_ray.storage import ByteRange, FileStore, file_write, probe_create_only


@pytest.fixture(params=["without a name", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of writing a file; the first is Linux's, and not of every file system."""
    if request.param == "named":
        monkeypatch.setattr(file_write, "_UNNAMED", None)
    return str(request.param)


def keys(store: FileStore) -> list[str]:
    return [info.key for info in store.list()]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    (zoo / "a").mkdir(parents=True)
    (zoo / "a" / "f").write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "g").write_bytes(b"yy")
    (zoo / "linked").symlink_to(elsewhere)
    (zoo / "h").symlink_to(elsewhere / "g")
    (zoo / "a" / "up").symlink_to(zoo)
    (zoo / "self").symlink_to(zoo / "self")
    (zoo / "nowhere").symlink_to(tmp_path / "missing")
    store = FileStore(zoo)
    assert keys(store) == ["a/f", "h", "linked/g"]
    assert store.stat("h").size == 2
    assert store.read("linked/g") == b"yy"
    # As where a link takes the place of a file after it was listed.
    for ask in (store.stat, store.read, partial(store.read_ranges, ranges=[ByteRange(0, 1)])):
        with pytest.raises(ObjectNotFound, match="leads back to itself"):
            ask("self")
    with pytest.raises(SourceChanged, match="leads back to itself"):
        store.read("self", "1-1")


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = FileStore(tmp_path / "link")
    store.create("a", b"")
    assert store.uri == f"{tmp_path}/link"
    assert keys(store) == ["a"]


def test_only_regular_files_are_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").write_bytes(b"")
    assert keys(FileStore(tmp_path)) == [".hidden"]


def test_a_file_being_written_is_never_seen(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    seen = []
    sync = os.fsync

    def watch(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            seen.append((len(list(tmp_path.iterdir())), keys(store)))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    store.create("a", b"xyz")
    assert seen == [(1 if way == "named" else 0, [])]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_neither_listed_nor_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".lego-ray-tmp-0123456789abcdef").write_bytes(b"half")
    store = FileStore(tmp_path)
    assert keys(store) == []
    store.create("a", b"x")
    assert keys(store) == ["a"]
    with pytest.raises(StorageError, match="kept for files being written"):
        store.read(".lego-ray-tmp-0123456789abcdef")


def test_a_writer_killed_at_any_moment_leaves_all_or_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from lego_ray.storage import FileStore; s = FileStore(sys.argv[1])\n"
        "print('go', flush=True)\n"
        "for i in range(10**6): s.create(f'{i:06d}', bytes(200_000))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while not any(FileStore(tmp_path).list()):
            assert writer.poll() is None
        writer.kill()
    found = list(FileStore(tmp_path).list())
    assert found
    assert {info.size for info in found} == {200_000}


def test_created_files_have_the_permissions_of_any_other(tmp_path: Path) -> None:
    FileStore(tmp_path).create("a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_directory_in_an_objects_place_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(AlreadyExists):
        FileStore(tmp_path).create("a", b"")


def test_a_file_in_a_directorys_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    store = FileStore(tmp_path)
    with pytest.raises(ObjectNotFound, match="is a file"):
        store.create("a/b", b"")
    with pytest.raises(ObjectNotFound, match="is a file"):
        store.read("a/b")
    with pytest.raises(ObjectNotFound, match="not a directory"):
        list(FileStore(tmp_path / "a").list())
    store.delete("a/b")


def test_the_part_of_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ObjectNotFound, match=rf"{tmp_path}/file is a file, not a directory"):
        FileStore(tmp_path / "file" / "b").read("c")
    with pytest.raises(ObjectNotFound, match=rf"{tmp_path}/link is a link to nowhere, which does"):
        FileStore(tmp_path / "link").create("c", b"")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_system_without_hard_links_is_refused_and_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UnsafeStore, match="no hard links"):
        probe_create_only(FileStore(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, NoSpaceLeft, "no space left"),
        (errno.EDQUOT, NoSpaceLeft, "no space left"),
        (errno.EFBIG, NoSpaceLeft, "ulimit -f"),
        (errno.EIO, StoreUnavailable, "the disk failed"),
        (errno.EROFS, AccessDenied, "read-only"),
        (errno.EACCES, AccessDenied, "Check owner and permissions"),
        (errno.ENAMETOOLONG, StorageError, "refused"),
    ],
)
def test_the_systems_errors_are_typed_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[StorageError],
    words: str,
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=words) as caught:
        FileStore(tmp_path).create("a", b"")
    assert type(caught.value) is kind
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_respected(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.create("d/a", b"")
    (tmp_path / "d").chmod(0)
    try:
        for use in (lambda: store.read("d/a"), lambda: list(store.list())):
            with pytest.raises(AccessDenied):
                use()
    finally:
        (tmp_path / "d").chmod(0o755)


def test_ranges_across_a_wide_gap_read_only_what_is_asked(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(3 << 30)
        file.write(b"end")
    store = FileStore(tmp_path)
    size = store.stat("sparse").size
    views = store.read_ranges("sparse", [ByteRange(size - 3, size), ByteRange(0, 4)])
    assert [bytes(view) for view in views] == [b"end", bytes(4)]
    assert store.bytes_read == 7


def test_directories_go_with_their_last_file_and_the_root_stays(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "root")
    for key in ("a/b/c", "a/b/d", "a/e", "f"):
        store.create(key, b"")
    store.delete("a/b/c")
    assert (tmp_path / "root" / "a" / "b").is_dir()
    store.delete("a/b/d")
    assert not (tmp_path / "root" / "a" / "b").exists()
    for key in ("a/e", "f"):
        store.delete(key)
    assert list((tmp_path / "root").iterdir()) == []


def test_a_directory_that_another_empties_is_no_error(tmp_path: Path) -> None:
    """Create makes the directory that delete takes away, over and over."""

    def work(number: int) -> None:
        store = FileStore(tmp_path)
        for _ in range(200):
            store.create(f"a/b/{number}", b"x")
            store.delete(f"a/b/{number}")

    with ThreadPoolExecutor(max_workers=8) as threads:
        list(threads.map(work, range(8)))
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_whole_and_like_any_other_either_way(way: str, tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.create("a/b", b"first")
    with pytest.raises(AlreadyExists):
        store.create("a/b", b"second")
    (tmp_path / "other").touch()
    assert store.read("a/b") == b"first"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert (tmp_path / "a" / "b").stat().st_nlink == 1


def test_writers_and_deleters_race_well_either_way(way: str, tmp_path: Path) -> None:
    test_a_directory_that_another_empties_is_no_error(tmp_path)


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs files without a name")
def test_a_process_killed_in_a_write_leaves_nothing(tmp_path: Path) -> None:
    dies = (
        "import os, signal, sys\n"
        "from lego_ray.storage import FileStore\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FileStore(sys.argv[1]).create('a/b', bytes(1000))"
    )
    done = subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "a").iterdir()) == []
