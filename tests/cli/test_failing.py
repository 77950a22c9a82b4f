"""Each error is shown once, short, with what to do next; with `--debug` its trace is too."""

from __future__ import annotations

import inspect
import json
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest

from lego_ray import errors
from lego_ray.cli.command import command
from lego_ray.cli.exit import DEBUG_VARIABLE
from lego_ray.cli.main import cli, main
from lego_ray.errors import LegoRayError, RecipeError

FAMILY = [
    each
    for each in vars(errors).values()
    if inspect.isclass(each) and issubclass(each, LegoRayError)
]
ARGUMENTS: dict[type[LegoRayError], tuple[Any, ...]] = {
    RecipeError: ("library.yaml", ("merges[0].rnak: no such key", "merges[1].rank: missing")),
}


def made(kind: type[LegoRayError]) -> LegoRayError:
    return kind(*ARGUMENTS.get(kind, ("s3://zoo/a", "there is no such thing")))


@pytest.fixture
def failing() -> Iterator[list[BaseException]]:
    """The command `fail`, which raises what is put in the list."""
    errors: list[BaseException] = []

    @command("fail")
    @click.option("--json", "as_json", is_flag=True)
    def fail(as_json: bool) -> None:
        raise errors[0]

    cli.add_command(fail)
    yield errors
    del cli.commands["fail"]


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


@pytest.mark.parametrize("kind", FAMILY)
def test_each_is_said_once_with_what_to_do_next(
    kind: type[LegoRayError], failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    error = made(kind)
    failing.append(error)
    status, out, err = ended(capsys, "fail")
    assert status == kind.exit_code
    assert out == ""
    assert err == f"{kind.__name__}: {error}\n"
    assert err.count(error.where) == err.count(error.hint) == 1
    assert error.hint.endswith(".")
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", FAMILY)
def test_with_json_it_is_one_object_too(
    kind: type[LegoRayError], failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    error = made(kind)
    failing.append(error)
    status, out, err = ended(capsys, "fail", "--json")
    told = json.loads(out)["error"]
    assert told["type"] == kind.__name__
    assert told["next"] == error.hint
    assert told["exit_status"] == status == kind.exit_code
    assert f"{told['message']} {told['next']}".split() == str(error).split()
    assert err == f"{kind.__name__}: {error}\n"


@pytest.mark.parametrize("kind", FAMILY)
def test_each_survives_pickling_with_its_hint(kind: type[LegoRayError]) -> None:
    error = made(kind)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.hint) == (kind, str(error), error.hint)


def test_a_hint_given_takes_the_place_of_the_class_s() -> None:
    assert str(errors.InvalidOption("--x", "it is 1", "Give 2.")) == "--x: it is 1. Give 2."


@pytest.mark.parametrize("words", [("fail", "--debug"), ("--debug", "fail")])
def test_debug_shows_the_trace_and_the_message_once(
    words: tuple[str, ...], failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(errors.StoreUnavailable("s3://zoo", "no answer"))
    status, out, err = ended(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("Traceback")
    assert "raise errors[0]" in err
    assert err.count("no answer") == 1
    assert err.splitlines()[-1] == f"StoreUnavailable: {failing[0]}"


def test_debug_may_be_asked_for_by_the_environment(
    failing: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing.append(errors.RunFailed("task", "it broke"))
    for value, shown in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv(DEBUG_VARIABLE, value)
        assert ("Traceback" in ended(capsys, "fail")[2]) is shown


def test_a_fault_of_the_program_says_how_to_see_and_report_it(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(KeyError("site"))
    status, out, err = ended(capsys, "fail", "--json")
    assert status == 1
    assert err.startswith("KeyError: 'site'\n")
    assert "--debug" in err
    assert "report" in err
    assert "Traceback" not in err
    assert json.loads(out)["error"]["type"] == "KeyError"
    assert "raise errors[0]" in ended(capsys, "fail", "--debug")[2]


def test_too_little_memory_is_said_as_such(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(MemoryError())
    status, _, err = ended(capsys, "fail")
    assert status == 1
    assert err.startswith("NotEnoughMemory: ")
    assert "--memory-budget or --workers" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mrege",), "merge"),
        (("catalog", "lineag"), "lineage"),
        (("merge", "zoo", "--outptu", "m"), "--output"),
        (("merge", "zoo", "--output", "m", "--method", "core-space"), "Did you mean core_space?"),
        (("merge", "zoo", "--output", "m", "--inner", "dareties"), "Did you mean dare_ties?"),
        (("merge", "zoo", "--output", "m", "--output-reweight", "pol"), "Did you mean pool?"),
        (("merge", "zoo", "--output", "m", "--runner", "inlin"), "Did you mean inline?"),
        (("completion", "bsh"), "Did you mean bash?"),
    ],
    ids=lambda words: words[-1] if isinstance(words, tuple) else "",
)
def test_of_a_wrong_word_it_is_said_what_was_meant(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = ended(capsys, *words)
    assert (status, out) == (2, "")
    assert "Did you mean" in err
    assert says in err
    assert "--help" in err.splitlines()[-1]
    told = json.loads(ended(capsys, *words, "--json")[1])["error"]
    assert (told["type"], told["exit_status"]) == ("UsageError", 2)


@pytest.mark.parametrize(
    "words",
    [
        ("--output-scale", "nan"),
        ("--rank-error", "inf"),
        ("--density", "nan"),
        ("--weight", "a0=nan"),
        ("--site-scale", "x=-inf"),
    ],
    ids=" ".join,
)
def test_a_number_that_is_not_finite_is_a_wrong_word(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = ended(capsys, "plan", "zoo", "--rank", "2", *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"Invalid value for '{words[0]}': '{words[1]}' ")
    assert "finite number" in err
    assert "--help" in err.splitlines()[-1]


def test_no_command_is_answered_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ended(capsys)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: ")
    assert err.count("Usage: ") == 1


@pytest.mark.parametrize("width", [80, 400])
def test_on_a_terminal_the_reason_comes_before_a_long_place(
    width: int,
    failing: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = f"/data/{'deep/' * 12}merged"
    failing[:] = [errors.OutputExists(place, "it holds another merge", "Choose another --output.")]
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    reason = "it holds another merge. Choose another --output.\n"
    assert ended(capsys, "fail")[2] == f"OutputExists: {place}: {reason}"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    said = ended(capsys, "fail", "--json")
    first = f"OutputExists: {place}: {reason}" if width == 400 else f"OutputExists: {reason}"
    assert said[2] == (first if width == 400 else f"{first}at {place}\n")
    assert json.loads(said[1])["error"]["message"] == f"{place}: it holds another merge."
