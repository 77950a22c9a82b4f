"""The README says what is so."""

import re
from pathlib import Path

import click
import pytest

import lego_ray
from lego_ray.catalog.schema import describe
from lego_ray.cli.main import cli
from lego_ray.cli.options import METHODS
from lego_ray.planning.recipe_file import parse_recipe_file

README = Path("README.md").read_text()


def commands(group: click.Group = cli) -> dict[str, click.Command]:
    found = {}
    for name, command in group.commands.items():
        found[name] = command
        if isinstance(command, click.Group):
            found |= commands(command)
    return found


def flags_of(command: click.Command) -> set[str]:
    with click.Context(command) as ctx:
        params = command.get_params(ctx)
    return {flag for param in params for flag in (*param.opts, *param.secondary_opts)}


def test_the_catalog_columns_are_those_of_the_tables() -> None:
    assert describe().strip().replace("#### ", "### ") in README


def test_every_flag_named_is_a_flag() -> None:
    known = {flag for c in [cli, *commands().values()] for flag in flags_of(c)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert named - known <= {"--help", "--working-dir"}  # the second is `ray job submit`'s


@pytest.mark.parametrize("heading", re.findall(r"^\| (flags? of `.*?) \|", README, re.MULTILINE))
def test_each_table_of_flags_names_flags_of_its_commands(heading: str) -> None:
    known = {
        flag for name in re.findall(r"`(\w+)`", heading) for flag in flags_of(commands()[name])
    }
    table = README.split(f"| {heading} |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {flag for cell in cells for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", cell)}
    assert named
    assert named <= known


def test_every_command_is_named() -> None:
    lines = "\n".join(re.findall(r"^lego-ray [^\n]+", README, re.MULTILINE))
    missing = [name for name in commands() if not re.search(rf"[ |]{name}\b", lines)]
    assert missing == []


def test_the_table_of_methods_has_them_all() -> None:
    table = README.split("| method | merges |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(
        METHODS
    )


@pytest.mark.parametrize("line", re.findall(r"^lego-ray ([^\n#>]+)", README, re.MULTILINE))
def test_every_command_line_parses(line: str) -> None:
    words = re.findall(r'"[^"]*"|\S+', line)
    if any("|" in word and not word.startswith('"') for word in words):
        for name in words[1].split("|"):
            assert name in commands()
        return
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(line, [word.strip('"') for word in words])


def test_every_call_named_exists() -> None:
    for name in re.findall(r"lego_ray\.(\w+)\(", README):
        assert callable(getattr(lego_ray, name))


def test_the_recipe_file_is_one() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert [entry.groups is None for entry in parse_recipe_file(text, "README").entries].count(
        False
    )


def test_the_test_command_is_what_ci_runs() -> None:
    assert "make test" in README
    assert "make test" in Path(".ci/run").read_text()
    assert "make demo" in Path(".ci/run").read_text()
