"""Pages of Markdown as their readers meet them: blocks in order, each run.

What a block is, the first words after its fence say:

- `bash`: commands. `lego-ray` runs in this process, with `--runner inline` unless the page says which;
  anything else in bash, at the top of what looks like a checkout.
- `python`: run with the names of the page's earlier Python blocks.
- `text` after one of these: what it prints. `...` stands for anything, blanks for any blanks, and
  `/home/you` for the directory.
- `toml`: a `lego-ray.toml` to read.
- `yaml NAME`: a file of that name; without a name, a recipe file to read.
- `bash no-run: WHY` or `python no-run: WHY`: not run, but each `lego-ray` line must parse, and Python
  must compile.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from lego_ray.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "deploy/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]
LANGUAGES = ("bash", "python", "text", "yaml", "toml", "mermaid")
HOME = "/home/you"

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_IN_BASH = re.compile(r"[|<>;&$`]")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: The first word after the fence.
        info: What follows it there.
        text: The block.
        line: Where the page has it.
        shown: The `text` block right after it, or None.
    """

    language: str
    info: str
    text: str
    line: int
    shown: str | None = None

    @property
    def runs(self) -> bool:
        """Whether a reader without an account anywhere can run it."""
        return not self.info.startswith("no-run")


def text_of(page: str) -> str:
    """The page."""
    return (ROOT / page).read_text()


def blocks_of(text: str) -> list[Block]:
    """A page's fenced blocks, outputs with what prints them."""
    blocks: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        language, _, info = fence[1].strip().partition(" ")
        follows = blocks and not text[end : fence.start()].strip()
        end = fence.end()
        if language == "text" and follows and blocks[-1].language in ("bash", "python"):
            last = blocks.pop()
            blocks.append(Block(last.language, last.info, last.text, last.line, fence[2]))
            continue
        line = text.count("\n", 0, fence.start()) + 1
        blocks.append(Block(language, info.strip(), fence[2], line))
    return blocks


def commands(block: Block) -> Iterator[str]:
    """Command lines of a block: continued ones joined, comments and blank lines left out.

    A line whose here-document follows has it.
    """
    lines = iter(re.sub(r"\\\n\s*", "", block.text).splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if word := re.search(r"<<'?(\w+)'?", line):
            line = "\n".join([line, *iter(lambda: next(lines), word[1]), word[1]])
        yield line


def words_of(line: str) -> list[str]:
    """A `lego-ray` command's words, its comment left out."""
    return shlex.split(line, comments=True)[1:]


def parse(line: str) -> None:
    """Parses a `lego-ray` command and does nothing.

    Raises:
        click.ClickException: If it is none.
    """
    words = words_of(re.sub(r"\s[|>].*", "", line))
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(line, words)


def in_this_process() -> dict[str, Any]:
    """Defaults by which commands that take a runner need no Ray."""
    return {
        name: {"runner": "inline"}
        for name, command in cli.commands.items()
        if any(param.name == "runner" for param in command.params)
    }


class Reader:
    """Someone who follows a page from top to bottom, in a directory that is like a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        for name in ("jobs", "tests", "lego_ray", "pyproject.toml", "constraints.txt"):
            (folder / name).symlink_to(ROOT / name)

    def follow(self, block: Block) -> None:
        """Does what the block says, in the current directory, and compares what it prints."""
        if block.language == "yaml":
            if block.info:
                (self.folder / block.info).write_text(block.text)
            return
        if block.language not in ("bash", "python"):
            return
        if not block.runs:
            self._parse(block)
            return
        printed = self._python(block) if block.language == "python" else self._bash(block)
        if block.shown is not None:
            compare(block.shown, printed.replace(str(self.folder), HOME))

    def _parse(self, block: Block) -> None:
        if block.language == "python":
            compile(block.text, f"line {block.line}", "exec")
            return
        for line in commands(block):
            if line.startswith("lego-ray "):
                parse(line)

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, "page", "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, self.names)
        return printed.getvalue()

    def _bash(self, block: Block) -> str:
        return "".join(self._command(line) for line in commands(block))

    def _command(self, line: str) -> str:
        if line.startswith("lego-ray ") and not _IN_BASH.search(re.sub(r'"[^"]*"', "", line)):
            found = CliRunner().invoke(cli, words_of(line), default_map=in_this_process())
            assert found.exit_code == 0, f"{line}\n{found.output}\n{found.exception!r}"
            return found.stdout
        where = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env={**os.environ, **where},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


def compare(shown: str, printed: str) -> None:
    """Holds what a page shows to what was printed."""
    how = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(shown, printed, how)
    assert same, f"the page shows\n{shown}\nand what comes is\n{printed}"
