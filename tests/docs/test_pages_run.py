"""Every command and Python block of the docs runs, in order, and prints what the page says."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

from lego_ray.methods.names import METHODS, MethodName
from lego_ray.planning.recipe_file import parse_recipe_file
from lego_ray.settings_file import FILE_VARIABLE
from lego_ray.storage.buckets import all_settings
from lego_ray.storage.uri import STORES
from lego_ray.storage.web_settings import sites_as_text
from tests.docs.pages import (
    LANGUAGES,
    PAGES,
    Block,
    Reader,
    blocks_of,
    commands,
    compare,
    parse,
    text_of,
)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A page that adds a method or a store adds it for itself.
    monkeypatch.setitem(METHODS, "longest", MethodName("longest:Longest", ""))
    monkeypatch.setitem(sys.modules, "longest", None)
    monkeypatch.setitem(sys.modules, "zipped", None)
    monkeypatch.setitem(STORES, "zip", STORES["file"])
    reader = Reader(tmp_path)
    for block in blocks_of(text_of(page)):
        try:
            reader.follow(block)
        except Exception as error:
            error.add_note(f"{page}, line {block.line}")
            raise


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    for block in blocks_of(text_of(page)):
        assert block.language in LANGUAGES, f"{page}, line {block.line}"
        if block.info and block.language in ("bash", "python"):
            assert block.info.startswith("no-run: "), f"{page}, line {block.line}: {block.info}"


@pytest.mark.parametrize("page", PAGES)
def test_recipe_files_are_ones(page: str) -> None:
    for block in blocks_of(text_of(page)):
        if block.language == "yaml":
            parse_recipe_file(block.text, f"{page}, line {block.line}")


@pytest.mark.parametrize("page", PAGES)
def test_files_of_settings_are_ones(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, block in enumerate(blocks_of(text_of(page))):
        if block.language == "toml":
            file = tmp_path / f"{number}.toml"
            file.write_text(block.text)
            monkeypatch.setenv(FILE_VARIABLE, str(file))
            assert all_settings() or sites_as_text(), f"{page}, line {block.line}"


def test_a_command_that_is_none_is_found() -> None:
    parse("lego-ray merge ./zoo --rank 8 --output ./m | head   # said")
    with pytest.raises(click.ClickException):
        parse("lego-ray merge ./zoo --rnak 8 --output ./m")


def test_outputs_are_held_to_what_is_printed() -> None:
    compare("merged  0.90...\n", "merged 0.9013\n")
    with pytest.raises(AssertionError, match="the page shows"):
        compare("merged 0.91...\n", "merged 0.9013\n")


def test_blocks_are_found_with_what_they_print() -> None:
    page = (
        "Say\n\n```bash\nls \\\n  -a\n# not\n```\n\n```text\n.\n```\n\n```yaml a.yaml\nx: 1\n```\n"
    )
    first, second = blocks_of(page)
    assert first == Block("bash", "", "ls \\\n  -a\n# not\n", 3, ".\n")
    assert (second.language, second.info, second.runs) == ("yaml", "a.yaml", True)
    assert list(commands(first)) == ["ls -a"]
    heredoc = Block("bash", "", "cat > f <<'END'\na\nEND\nls\n", 1)
    assert list(commands(heredoc)) == ["cat > f <<'END'\na\nEND", "ls"]
