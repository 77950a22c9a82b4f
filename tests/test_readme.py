"""The README and the pages it leads to say what is so."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import click
import pytest

import lego_ray
from jobs.soak.table import table
from lego_ray.catalog.schema import describe
from lego_ray.cli.main import cli
from lego_ray.methods.names import METHODS
from tests.docs.pages import PAGES, blocks_of, parse, text_of, words_of
from tests.docs.pages import commands as command_lines

README = text_of("README.md")
ALL = "\n".join(map(text_of, PAGES))


def commands(group: click.Group = cli) -> dict[str, click.Command]:
    found = {}
    for name, command in group.commands.items():
        found[name] = command
        if isinstance(command, click.Group):
            found |= commands(command)
    return found


# Flags of other programs that the prose names; lines that begin with another program are not looked at.
OTHERS = {"--working-dir", "--fine-tune-type", "--aws-service-name", "--env", "--max-lora-rank"}
# Of benchmarks, and of a script of kohya's that one runs.
OTHERS |= {"--mergekit", "--kohya", "--kohya-python", "--concat", "--device", "--small"}
# Of servers that load a merge.
OTHERS |= {"--enable-lora", "--lora-modules", "--model", "--model-path", "--lora-paths", "--lora"}
OTHERS |= {"--outfile"}
OTHERS_COMMAND = re.compile(
    r"^\s*(aws|docker|helm|eksctl|ray|kubectl|envsubst|pip|crontab)\b|^  --"
)


def flags_of(command: click.Command) -> set[str]:
    with click.Context(command) as ctx:
        params = command.get_params(ctx)
    return {flag for param in params for flag in (*param.opts, *param.secondary_opts)}


def test_the_catalog_columns_are_those_of_the_tables() -> None:
    assert describe().strip().replace("#### ", "## ") in text_of("docs/catalog.md")


def test_every_flag_named_is_a_flag() -> None:
    known = {flag for c in [cli, *commands().values()] for flag in flags_of(c)}
    lines = [line for page in PAGES for line in text_of(page).splitlines()]
    ours = "\n".join(line for line in lines if not OTHERS_COMMAND.match(line))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours))
    assert named - known <= {"--help", *OTHERS}


@pytest.mark.parametrize("heading", re.findall(r"^\| (flags? of `.*?) \|", ALL, re.MULTILINE))
def test_each_table_of_flags_names_flags_of_its_commands(heading: str) -> None:
    known = {
        flag for name in re.findall(r"`(\w+)`", heading) for flag in flags_of(commands()[name])
    }
    table = ALL.split(f"| {heading} |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {flag for cell in cells for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", cell)}
    assert named
    assert named <= known


def test_every_command_is_run_by_some_page() -> None:
    run = {
        " ".join(words_of(line)[:2])
        for page in PAGES
        for block in blocks_of(text_of(page))
        if block.language == "bash" and block.runs
        for line in command_lines(block)
        if line.startswith("lego-ray ")
    }
    words = {word for line in run for word in line.split()}
    assert set(commands()) - words == set()


def test_each_table_of_methods_has_them_all() -> None:
    for heading in ("| method | merges |", "| method | when to use it |"):
        table = ALL.split(heading)[1].split("\n\n")[0]
        cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        named = [name for cell in cells for name in re.findall(r"`([\w*]+)`", cell)]
        found = [m for name in named for m in METHODS if fnmatchcase(m, name)]
        assert sorted(found) == sorted(METHODS)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_parses(page: str) -> None:
    lines = [line for block in blocks_of(text_of(page)) for line in command_lines(block)]
    for line in lines:
        if line.startswith("lego-ray "):
            parse(line)


def test_the_table_of_the_soak_is_what_the_soak_wrote() -> None:
    figures = json.loads(Path("jobs/results/soak.json").read_text())
    assert table(figures) == text_of("jobs/results/soak.md")
    assert table(figures) in text_of("docs/benchmarks.md")


def test_every_call_named_exists() -> None:
    for name in re.findall(r"lego_ray\.(\w+)\(", ALL):
        assert callable(getattr(lego_ray, name))


def test_the_test_command_is_what_ci_runs() -> None:
    assert "make test" in README
    assert "make test" in Path(".ci/run").read_text()
    assert "make demo" in Path(".ci/run").read_text()
