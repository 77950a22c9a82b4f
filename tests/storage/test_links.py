"""What is listed through a link lies elsewhere."""

from __future__ import annotations

from pathlib import Path

from lego_ray.storage.file import FileStore
from lego_ray.storage.links import lies_inside
from lego_ray.storage.s3 import S3Store


def test_what_a_link_leads_to_lies_elsewhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    root = tmp_path / "root"
    (root / "own").mkdir(parents=True)
    (root / "own" / "file").write_text("x")
    (root / "folder").symlink_to(outside)
    (root / "own" / "link").symlink_to(outside / "file")
    store = FileStore(root)
    inside = {info.key: lies_inside(store, info.key) for info in store.list()}
    assert inside == {"folder/file": False, "own/file": True, "own/link": False}
    assert lies_inside(store, "")
    assert lies_inside(store, "own")
    assert not lies_inside(store, "folder")


def test_a_root_that_is_a_link_is_the_users_choice(tmp_path: Path) -> None:
    (tmp_path / "real" / "out").mkdir(parents=True)
    (tmp_path / "real" / "out" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert lies_inside(FileStore(tmp_path / "link"), "out/file")


def test_s3_has_no_links() -> None:
    assert lies_inside(S3Store("bucket", "prefix"), "a/b")
