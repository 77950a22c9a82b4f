"""What `--help` says is so, and fits a terminal of 80 columns."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from lego_ray.cli.command import ALL_FLAG, RARE, SECTIONS, Command, Group
from lego_ray.cli.main import cli


def commands(
    group: click.Group = cli, path: str = "lego-ray"
) -> Iterator[tuple[str, click.Command]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL = dict(commands())
LEAVES = {path: each for path, each in ALL.items() if not isinstance(each, click.Group)}


def help_of(path: str, *, whole: bool = False) -> str:
    with click.Context(ALL[path], info_name=path, terminal_width=80) as ctx:
        if not whole or ALL_FLAG not in {
            name for p in ALL[path].get_params(ctx) for name in p.opts
        }:
            return ALL[path].get_help(ctx)
    found = CliRunner().invoke(cli, [*path.split()[1:], ALL_FLAG], terminal_width=80)
    assert found.exit_code == 0
    return found.stdout


@pytest.mark.parametrize("path", ALL)
def test_it_fits_80_columns_and_begins_with_one_line_of_purpose(path: str) -> None:
    text = help_of(path)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    purpose = (ALL[path].help or "").split("\n\n")[0]
    assert "\n" not in purpose
    assert purpose.endswith(".")
    assert "--debug" in text


@pytest.mark.parametrize("path", ALL)
def test_its_examples_parse(path: str) -> None:
    examples = re.findall(r"^ {4}(lego-ray .*)$", help_of(path), re.MULTILINE)
    assert examples, "a command shows how it is used"
    for line in examples:
        words = shlex.split(line.partition(" > ")[0])[1:]
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        if path != "lego-ray":
            assert path in line
        command.make_context(line, words)


@pytest.mark.parametrize("path", ALL)
def test_every_command_is_one_of_ours(path: str) -> None:
    """Made by `lego_ray.cli.command`, so that it takes `--debug` and sorts its options."""
    assert isinstance(ALL[path], Command | Group)


@pytest.mark.parametrize("path", [path for path in LEAVES if path != "lego-ray completion"])
def test_every_command_takes_json(path: str) -> None:
    assert "--json" in {flag for param in LEAVES[path].params for flag in param.opts}


@pytest.mark.parametrize("path", LEAVES)
def test_sections_leave_no_option_out_and_show_none_twice(path: str) -> None:
    with click.Context(LEAVES[path], info_name=path) as ctx:
        options = [
            p for p in LEAVES[path].get_params(ctx) if isinstance(p, click.Option) and not p.hidden
        ]
        starts = [re.escape(record[0]) for p in options if (record := p.get_help_record(ctx))]
    text = help_of(path, whole=True)
    assert len(starts) == len(options)
    assert [s for s in starts if len(re.findall(rf"^  {s}(?:  |$)", text, re.MULTILINE)) != 1] == []


def test_the_sections_name_options_that_there_are() -> None:
    names = [name for section in SECTIONS.values() for name in section]
    assert len(set(names)) == len(names)
    known = {param.name for command in LEAVES.values() for param in command.params}
    assert set(names) <= known


def test_rare_options_are_options() -> None:
    assert {param.name for command in LEAVES.values() for param in command.params} >= RARE


@pytest.mark.parametrize("path", LEAVES)
def test_help_is_one_screen(path: str) -> None:
    brief, whole = help_of(path), help_of(path, whole=True)
    # A search says how merges are tried and scored, and what is merged too.
    assert len(brief.splitlines()) <= (70 if path == "lego-ray tune" else 50)
    if brief != whole:
        n = len(
            set(re.findall(r"^  (--[\w-]+)", whole, re.M))
            - set(re.findall(r"^  (--[\w-]+)", brief, re.M))
        )
        assert f"{n} more with --help-all." in brief
        assert [line for line in whole.splitlines() if len(line) > 80] == []


def test_help_all_needs_nothing_else_and_rare_flags_work() -> None:
    done = CliRunner().invoke(cli, ["merge", "--help-all"])
    assert done.exit_code == 0
    assert "--rank-budget" in done.stdout
    assert "--rank-budget" not in help_of("lego-ray merge")
    words = ["no/such/place", "--rank-budget", "4", "--output", "no/such/output"]
    assert ALL["lego-ray merge"].make_context("merge", words).params["rank_budget"] == 4


@pytest.mark.parametrize("verb", ["merge", "plan"])
def test_the_longest_help_is_short(verb: str) -> None:
    assert len(help_of(f"lego-ray {verb}", whole=True).splitlines()) <= 101
    assert "--n-init" not in help_of(f"lego-ray {verb}")
    assert "--option NAME=VALUE" in help_of(f"lego-ray {verb}")


def test_a_job_has_the_name_of_its_command_too() -> None:
    words = [sys.executable, "-m", "lego_ray.jobs.refresh", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "RECIPE.yaml" in done.stdout
