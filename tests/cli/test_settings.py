"""Defaults of flags: flag, recipe file, environment, settings file, in this order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import lego_ray
from lego_ray.cli.compare import compare
from lego_ray.cli.main import cli, main
from lego_ray.cli.report import report
from lego_ray.cli.scan import scan
from lego_ray.storage.buckets import BucketSettings, Settings, bucket_settings
from tests.zoo import write_zoo


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are run in, with a zoo of two."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEGO_RAY_CONFIG", raising=False)
    write_zoo(tmp_path / "zoo", 2)
    return tmp_path


def asked(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def scanned(*words: object) -> Any:
    done = asked("scan", "zoo", "--json", *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["catalog"]


def test_a_flag_comes_before_the_environment_and_that_before_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scanned() is None
    (folder / "pyproject.toml").write_text('[tool.lego-ray]\ncatalog = "of-project"\n')
    assert scanned() == str(folder / "of-project")
    (folder / "lego-ray.toml").write_text('catalog = "of-file"\n')
    assert scanned() == str(folder / "of-file")
    monkeypatch.setenv("LEGO_RAY_CATALOG", "of-variable")
    assert scanned() == str(folder / "of-variable")
    assert scanned("--catalog", "of-flag") == str(folder / "of-flag")


def test_commands_that_need_a_catalog_take_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = asked("catalog", "list")
    assert missing.exit_code == 2
    assert "LEGO_RAY_CATALOG" in missing.output
    lego_ray.merge("zoo", rank=2, output="m", catalog="mine", runner="inline", n_init=1)
    monkeypatch.setenv("LEGO_RAY_CATALOG", "mine")
    assert json.loads(asked("catalog", "list", "--json").stdout)["rows"][0]["name"] == "m"


@pytest.mark.parametrize("verb", ["build", "refresh"])
def test_a_recipe_files_own_catalog_comes_before_a_default(folder: Path, verb: str) -> None:
    (folder / "lego-ray.toml").write_text('catalog = "of-file"\nrunner = "inline"\n')
    text = "sources: [zoo]\noutput: library\ndefaults: {rank: 2}\nmerges: [{name: all}]\n"
    (folder / "own.yaml").write_text(f"catalog: of-recipe\n{text}")
    done = asked(verb, "own.yaml", "--json", "--log", "json")
    assert json.loads(done.stdout)["catalog"] == str(folder / "of-recipe")
    [settings] = [line for line in map(json.loads, done.stderr.splitlines()) if "file" in line]
    assert settings == {**settings, "event": "settings", "runner": "inline"}
    assert "catalog" not in settings
    (folder / "none.yaml").write_text(text.replace("library", "other"))
    done = asked(verb, "none.yaml", "--json")
    assert json.loads(done.stdout)["catalog"] == str(folder / "of-file")
    done = asked(verb, "own.yaml", "--json", "--catalog", "of-flag", "--output", "third")
    assert json.loads(done.stdout)["catalog"] == str(folder / "of-flag")


def test_a_report_leaves_out_a_default_catalog_that_lacks_the_merge(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, catalog in (("a", "one"), ("b", "two")):
        lego_ray.merge("zoo", rank=2, output=name, catalog=catalog, runner="inline", n_init=1)
    refused = asked("report", "a", "--output", "p.html", "--catalog", "two").exception
    assert "does not hold the merge" in str(refused)
    monkeypatch.setenv("LEGO_RAY_CATALOG", "two")
    done = asked("report", "a", "--output", "p.html")
    assert done.exit_code == 0, done.output
    assert "more with --catalog" in done.stdout


def test_what_was_taken_from_the_file_is_logged_once(folder: Path) -> None:
    (folder / "lego-ray.toml").write_text(
        'catalog = "c"\nmemory_budget = "1GiB"\nlog = "json"\nworkers = 1\n[buckets.b]\nregion = "r"\n'
    )
    words = ("merge", "zoo", "--rank", 2, "--output", "m", "--runner", "inline", "--n-init", 1)
    done = asked(*words, "--workers", 2)
    assert done.exit_code == 0, done.output
    [line] = [each for each in map(json.loads, done.stderr.splitlines()) if "file" in each]
    assert line == {
        **{"time": line["time"], "level": "info", "event": "settings", "plan": ""},
        **{"file": str(folder / "lego-ray.toml"), "catalog": "c"},
        **{"memory_budget": "1GiB", "log": "json"},
    }
    assert bucket_settings("b") == BucketSettings(region="r")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('catalogue = "c"', "catalogue: no such key. Did you mean catalog"),
        ("rank = 8", "rank: no such key. There are buckets, catalog"),
        ("workers = 'many'", "workers: 'many'; expected a whole number"),
        ("catalog = ''", "expected text that is not empty"),
        ("catalog", "it is not TOML"),
        ("runner = 'rayy'", "Did you mean ray? It is set in "),
    ],
)
def test_a_fault_in_the_file_is_one_error(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    for name, head in (("lego-ray.toml", ""), ("pyproject.toml", "[tool.lego-ray]\n")):
        (folder / name).write_text(head + text)
        with pytest.raises(SystemExit) as end:
            main(["merge", "zoo", "--rank", "2", "--output", "m"])
        told = capsys.readouterr().err
        assert (end.value.code, says in told, str(folder / name) in told) == (2, True, True), told
        assert not (folder / "m").exists()
        assert asked("merge", "--help").exit_code == 0
        (folder / name).unlink()


def test_a_project_file_that_is_not_about_lego_ray_is_not_read(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("dependencies = ['lego-ray'\n[tool.other\n")
    assert scanned() is None


def test_defaults_of_a_job_come_before_the_file(folder: Path) -> None:

    (folder / "lego-ray.toml").write_text('catalog = "of-file"\nlog = "json"\naddress = "local"\n')
    with scan.make_context("scan", ["zoo"], default_map={"catalog": "of-job"}) as ctx:
        assert ctx.params["catalog"] == "of-job"
    with scan.make_context("scan", ["zoo"], default_map={"as_json": True}) as ctx:
        assert (ctx.params["catalog"], ctx.params["as_json"]) == ("of-file", True)


def test_every_default_is_a_flag_of_a_command() -> None:
    def flags(group: click.Group) -> set[str]:
        return {
            name
            for each in group.commands.values()
            for name in (
                flags(each)
                if isinstance(each, click.Group)
                else {param.name for param in each.params if isinstance(param, click.Option)}
            )
            if name
        }

    assert set(Settings.model_fields) - {"buckets", "sites"} <= flags(cli)


@pytest.mark.parametrize(
    ("command", "words"), [(compare, ["a", "b"]), (report, ["a", "--output", "p.html"])]
)
def test_commands_that_may_read_a_catalog_take_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: Any, words: list[str]
) -> None:
    monkeypatch.setenv("LEGO_RAY_CATALOG", str(folder / "of-environment"))
    with command.make_context(command.name, [*words]) as ctx:
        assert ctx.params["catalog"] == str(folder / "of-environment")
