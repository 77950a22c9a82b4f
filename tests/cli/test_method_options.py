"""`--option NAME=VALUE` is what the option's own flag is, and `lego-ray methods` lists all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption
from lego_ray.methods.names import METHODS
from tests.zoo import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("options") / "zoo", 2)


def asked(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def digest(zoo: Path, *words: object) -> str:
    done = asked("plan", zoo, "--rank", 4, "--json", *words)
    assert done.exit_code == 0, done.output
    return str(json.loads(done.stdout)["plan"])


@pytest.mark.parametrize(
    ("pair", "flag"),
    [
        ("n_init=3", ("--n-init", 3)),
        ("n-init=3", ("--n-init", 3)),
        ("tol=0.001", ("--tol", 0.001)),
        ("basis=svd", ("--basis", "svd")),
        ("balance=true", ("--balance",)),
        ("normalise=yes", ("--normalize",)),
        ("align_signs=off", ("--no-align-signs",)),
        ("output_reweight=pool", ("--output-reweight", "pool")),
        ("output_reweight=0.5", ("--output-reweight", 0.5)),
    ],
)
def test_a_pair_is_the_flag(zoo: Path, pair: str, flag: tuple[object, ...]) -> None:
    assert (
        digest(zoo, "--option", pair) == digest(zoo, *flag) == digest(zoo, "--option", pair, *flag)
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("n_init",), "'n_init' is not NAME=VALUE"),
        (("n_init=",), "is not NAME=VALUE"),
        (("n_inti=3",), "'n_inti' is not an option of a method. Did you mean n_init?"),
        (("bogus=1",), "'bogus' is not an option of a method. `lego-ray methods NAME` lists"),
        (("n_init=many",), "n_init: 'many' is not a whole number"),
        (("balance=perhaps",), "balance: 'perhaps' is not true or false"),
        (("output_reweight=poo",), "is not source-rank, pool, none, or a number"),
        (("n_init=3", "--option", "n_init=4"), "n_init is given 3 and 4"),
        (("n_init=3", "--n-init", "4"), "n_init is given 3, and 4 by --n-init"),
    ],
)
def test_a_wrong_pair_is_one_error(zoo: Path, words: tuple[str, ...], says: str) -> None:
    done = asked("plan", zoo, "--rank", 4, "--option", *words)
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("max_iter=0",),
            "--option max_iter: 0 is not a whole number of at least 1. `lego-ray methods NAME`",
        ),
        (("basis=cube",), "'cube' is not one of raw, svd"),
        (("density=0.5",), "--option density: the lego method does not have this option"),
        (
            ("density=2", "--method", "ties"),
            "--option density: 2.0 is not a number above 0 and at most 1. `lego-ray methods ties` lists",
        ),
    ],
)
def test_the_method_checks_the_value(zoo: Path, words: tuple[str, ...], says: str) -> None:
    done = asked("plan", zoo, "--rank", 4, "--option", *words)
    assert isinstance(done.exception, InvalidOption)
    assert says in str(done.exception)


def test_methods_lists_all_and_one() -> None:
    done = asked("methods")
    assert done.exit_code == 0
    assert all(f"\n{name} " in done.stdout for name in METHODS)
    assert max(map(len, done.stdout.splitlines())) <= 100
    head = done.stdout.splitlines()[0].split("  ")
    heads = [each.strip() for each in head if each.strip()]
    assert heads == ["method", "options", "laws", "cost", "lineage", "when to use it"]
    assert re.search(r"^concat +0  one, sum +a copy", done.stdout, re.M)
    assert re.search(r"^law sum ", done.stdout, re.M)
    one = asked("methods", "ties").stdout
    assert "with density=1" in one
    assert "a number above 0 and at most 1" in one
    assert "options            none" in asked("methods", "svd").stdout
    told = json.loads(asked("methods", "iso", "--json").stdout)
    assert [m["name"] for m in told["methods"]] == [p["name"] for p in told["presets"]] == ["iso"]
    assert isinstance(asked("methods", "isoo").exception, InvalidOption)
