"""The file of an HTML page: where it may be written, and that it is written whole."""

from __future__ import annotations

import secrets
from pathlib import Path

from lego_ray.errors import InvalidOption, OutputExists
from lego_ray.storage.file_errors import disk_errors
from lego_ray.storage.places import Place

_START = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta name="generator" content="lego-ray {}">'
)
# What a page starts with, by which one written before is known from other files: of one merge, and of a
# comparison.
START = _START.format("report")
COMPARISON = _START.format("compare")


def target_of(place: Place, option: str, start: str) -> Path:
    """The path of a page, which may be written to.

    Args:
        place: Where the page goes.
        option: The flag that says so, for errors.
        start: What a page of this kind starts with.

    Raises:
        InvalidOption: If it is not a local path, or it is a directory.
        OutputExists: If it holds a file that is not such a page.
    """
    if not place.is_local:
        raise InvalidOption(option, f"{place} is not a local path", "Give one, such as page.html.")
    target = Path(str(place))
    with disk_errors(str(target)):
        _check(target, option, start.encode())
    return target


def _check(target: Path, option: str, start: bytes) -> None:
    if target.is_dir():
        raise InvalidOption(option, f"{target} is a directory", f"Give {target / 'page.html'}.")
    if target.exists() or target.is_symlink():
        hint = f"Choose another {option}."
        if not target.is_file() or target.is_symlink():
            raise OutputExists(str(target), "it is not a regular file", hint)
        with target.open("rb") as file:
            if file.read(len(start)) != start:
                raise OutputExists(str(target), "it is not a page of this command", hint)


def write_page(target: Path, data: bytes) -> None:
    """Writes a page whole, in place of one before.

    Args:
        target: From `target_of`.
        data: HTML, UTF-8.
    """
    with disk_errors(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name nobody can guess, and nothing is ever there: a link left in its place is not followed.
        beside = target.with_name(f".lego-ray-page-{secrets.token_hex(8)}")
        try:
            with beside.open("xb") as file:
                file.write(data)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
