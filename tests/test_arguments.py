"""Every public call, every argument, every kind of wrong value: a typed error, and nothing written."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lego_ray
from lego_ray import catalog
from lego_ray.arguments import CHECKS, checked
from lego_ray.errors import BadInput, InvalidOption, LegoRayError
from lego_ray.methods.names import METHODS, keyword
from lego_ray.methods.registry import method_of
from tests.zoo import write_zoo


def _public() -> dict[str, Callable[..., Any]]:
    exported = {name: getattr(lego_ray, name) for name in lego_ray.__all__}
    calls = {name: call for name, call in exported.items() if inspect.isfunction(call)}
    more = {n: f for n, f in vars(catalog).items() if inspect.isfunction(f) and n[0] != "_"}
    own = {n: f for n, f in more.items() if f.__module__ == catalog.__name__}
    return {**calls, **{f"catalog.{name}": call for name, call in own.items()}}


CALLS = _public()
ARGUMENTS = [
    (name, parameter.name)
    for name, call in CALLS.items()
    for parameter in inspect.signature(call).parameters.values()
    if parameter.kind is not parameter.VAR_KEYWORD
]


class Thing:
    """Of no use to any call."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class BytesPath:
    """A path that is not text."""

    def __fspath__(self) -> bytes:
        return b"/tmp/x"


ANY: dict[str, Any] = {
    "none": None,
    "true": True,
    "numpy bool": np.bool_(True),
    "one": 1,
    "minus one": -1,
    "numpy int": np.int64(3),
    "half": 0.5,
    "numpy float": np.float32(0.5),
    "nan": float("nan"),
    "infinity": float("inf"),
    "bytes": b"x",
    "empty text": "",
    "text": "x",
    "zero byte": "a\0b",
    "empty list": [],
    "list of none": [None],
    "list of bytes": [b"x"],
    "list of texts": ["x"],
    "mapping": {"x": 1.0},
    "mapping of text": {"x": "y"},
    "mapping by number": {1: 1.0},
    "mapping of nan": {"x": float("nan")},
    "path": Path("x"),
    "bytes path": BytesPath(),
    "object": Thing(),
    "class": Thing,
    "array": np.ones(2),
    "array without axes": np.array(0.5),
    "duration": timedelta(seconds=-1),
}
# By annotation, which of these a call may take, if only to find that they are out of range.
_NUMBERS = ("one", "minus one", "numpy int")
_TEXTS = ("empty text", "text", "zero byte")
_REALS = (*_NUMBERS, "half", "numpy float")
_PLACES = (*_TEXTS, "path")
_CALLABLE = ("class",)
FITS: dict[str, tuple[str, ...]] = {
    "Uri": _PLACES,
    "str | PathLike[str]": _PLACES,
    "str | PathLike[str] | None": (*_PLACES, "none"),
    "Uri | None": (*_PLACES, "none"),
    "Uri | Sequence[Uri]": (*_PLACES, "list of texts", "empty list"),
    "Uri | Sequence[Uri] | None": (*_PLACES, "list of texts", "empty list", "none"),
    "Sequence[int]": ("empty list",),
    "str": _TEXTS,
    "str | None": (*_TEXTS, "none"),
    "Sequence[str]": ("list of texts", "empty list"),
    "str | Sequence[str]": (*_TEXTS, "list of texts", "empty list"),
    "bool": ("true", "numpy bool"),
    "int": _NUMBERS,
    "int | None": (*_NUMBERS, "none"),
    "int | str": (*_NUMBERS, *_TEXTS),
    "int | str | None": (*_NUMBERS, *_TEXTS, "none"),
    "float": _REALS,
    "float | None": (*_REALS, "none"),
    "float | str": (*_REALS, *_TEXTS),
    "str | float": (*_REALS, *_TEXTS),
    "float | str | None": (*_REALS, *_TEXTS, "none"),
    "Mapping[str, float] | None": ("mapping", "none"),
    "str | Runner": _TEXTS,
    "Progress | None": (*_CALLABLE, "none"),
    "Counted": _CALLABLE,
    "str | timedelta": (*_TEXTS, "duration"),
    "str | timedelta | None": (*_TEXTS, "duration", "none"),
    "str | datetime": _TEXTS,
    "Moment": (*_TEXTS, "none"),
}


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sound(call: Callable[..., Any], where: Path) -> dict[str, Any]:
    """Arguments that a call takes; what they name is not there, so that it ends early."""
    values: dict[str, Any] = {
        "runner": "inline",
        "rank": 2,
        "ranks": [2],
        "query": "SELECT 1",
        "merge": "m",
        "adapter": "a",
    }
    parameters = inspect.signature(call).parameters
    return {
        name: values.get(name, str(where / "none" / name))
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
        and (parameter.default is parameter.empty or name in ("runner", "output"))
    } | ({"rank": 2} if "rank_budget" in parameters else {})


def test_every_annotation_has_its_values() -> None:
    assert FITS.keys() == CHECKS.keys()


@pytest.mark.parametrize(("call_name", "argument"), ARGUMENTS)
def test_a_wrong_value_is_named(call_name: str, argument: str, where: Path) -> None:
    call = CALLS[call_name]
    parameter = inspect.signature(call).parameters[argument]
    given = sound(call, where)
    for kind, value in ANY.items():
        arguments = {**given, argument: value}
        fits = kind in FITS[str(parameter.annotation)]
        if fits and kind == "empty list" and parameter.default is parameter.empty:
            fits = False
        if not fits:
            with pytest.raises(BadInput) as raised:
                call(**arguments)
            assert raised.value.where == argument, kind
            assert "expected" in raised.value.problem, kind
        elif parameter.annotation != "str | Runner" or kind != "text":
            with suppress(LegoRayError):  # out of range, or what it names is not there
                call(**arguments)
    assert list(where.iterdir()) == []


# Numbers that are below what each numeric argument of any call accepts; an argument with another name
# needs a line here. None of these says that any number is meant.
NEGATIVE: dict[str, Any] = {
    **dict.fromkeys(("workers", "max_workers", "wait", "gpus", "memory_budget"), -1),
    **dict.fromkeys(("rank", "rank_budget", "rank_error", "seed", "trials", "groups"), -1),
    **dict.fromkeys(
        ("n_init", "max_iter", "tol", "beta", "common_share", "density", "dare_density"), -1
    ),
    **dict.fromkeys(("time_limit_per_trial", "score_timeout", "version", "spectrum"), -1),
    **dict.fromkeys(("weights", "site_scales", "output_scale", "output_reweight")),
    "ranks": [-1],
    "scan_limits": {"objects": -1},
    "task_weights": {"a": -1},
}
# What tells whether another argument is out of range: with the others it is not used at all.
BESIDE: dict[str, dict[str, Any]] = {
    "rank_error": {"rank": "auto"},
    "density": {"method": "ties"},
    "dare_density": {"method": "dare_ties"},
    "rank_budget": {"rank": None},
}
NUMERIC = [
    (name, argument)
    for name, argument in ARGUMENTS
    if any(
        kind in str(inspect.signature(CALLS[name]).parameters[argument].annotation)
        for kind in ("int", "float")
    )
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo, a merge of it, its catalog, and a recipe file that names it."""
    root = tmp_path_factory.mktemp("library")
    write_zoo(root / "zoo", 2)
    options: dict[str, Any] = {"rank": 2, "method": "svd", "runner": "inline"}
    lego_ray.merge(root / "zoo", output=root / "m", name="m", catalog=root / "catalog", **options)
    recipe = {
        "sources": [str(root / "zoo")],
        "output": str(root / "out"),
        "merges": [{"name": "m", "rank": 2, "method": "svd"}],
    }
    (root / "recipe.yaml").write_text(json.dumps(recipe))
    return root


@pytest.mark.parametrize(("call_name", "argument"), NUMERIC)
def test_a_number_out_of_range_is_named_before_anything_is_written(
    call_name: str, argument: str, library: Path, where: Path
) -> None:
    value = NEGATIVE[argument]
    if value is None:
        return
    call = CALLS[call_name]
    parameters = inspect.signature(call).parameters
    real = {
        "sources": library / "zoo",
        "recipe": library / "recipe.yaml",
        "merged": library / "m",
        "merges": [library / "m", library / "m"],
        "catalog": library / "catalog",
        "score": "score {adapter}",
        "ranks": [2],
        "place": library / "zoo",
        "source": library / "zoo",
    }
    given = sound(call, where) | {k: v for k, v in real.items() if k in parameters}
    given |= {k: v for k, v in BESIDE.get(argument, {}).items() if k in parameters}
    if "ranks" in parameters:
        given.pop("rank", None)
    given[argument] = value
    with pytest.raises(InvalidOption) as raised:
        call(**given)
    flag = argument.removesuffix("s").replace("_", "-")
    assert flag in str(raised.value).replace("_", "-")
    assert list(where.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
def test_options_of_methods_are_checked_too(method: str) -> None:
    for option in METHODS[method].options:
        for kind, value in ANY.items():
            try:
                method_of(method, {option: value})
            except InvalidOption:
                continue
            assert kind in FITS[keyword(option).annotation], (option, kind)


def test_a_call_with_an_option_of_a_wrong_type(where: Path) -> None:
    with pytest.raises(
        InvalidOption, match="n_init: 'many' is of type str; expected a whole number"
    ):
        lego_ray.merge(where / "zoo", rank=2, output=where / "m", n_init="many")  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [lego_ray.merge, lego_ray.plan, lego_ray.scan, lego_ray.build])
def test_of_an_unknown_option_the_nearest_is_named(call: Callable[..., Any], where: Path) -> None:
    name = "checkpoint" if call in (lego_ray.scan, lego_ray.build) else "n_inti"
    near = "checkpoints" if call in (lego_ray.scan, lego_ray.build) else "n_init"
    with pytest.raises(
        InvalidOption, match=f"{name}: this option does not exist. Did you mean {near}"
    ):
        call(where / "zoo", **{name: 3})


def test_help_lists_the_options_with_their_defaults() -> None:
    text = inspect.getdoc(lego_ray.merge) or ""
    assert "n_init: Restarts of k-means; the one of least inertia is kept. Default: 10." in text
    assert inspect.signature(lego_ray.merge).parameters["seed"].default == 0


def test_the_message_says_all(where: Path) -> None:
    with pytest.raises(InvalidOption) as raised:
        lego_ray.merge(where / "zoo", rank=2, output=where / "m", base_model=None)  # type: ignore[arg-type]
    assert str(raised.value) == (
        "base_model: None is of type NoneType; expected text. `help` of the call says what each "
        "argument accepts."
    )


def test_one_pattern_is_not_a_list_of_letters(where: Path) -> None:
    with pytest.raises(InvalidOption, match="exclude: 'a\\*' is of type str; expected a list"):
        lego_ray.scan(where, exclude="a*")


def test_numbers_of_numpy_count_as_python_s(where: Path) -> None:
    write_zoo(where / "zoo", 2)
    options: dict[str, Any] = {"method": "svd", "runner": "inline"}
    plain = lego_ray.merge(where / "zoo", rank=2, output=where / "a", name="m", seed=3, **options)
    same = lego_ray.merge(
        Path("zoo"),
        rank=np.int32(2),  # type: ignore[arg-type]
        output="b",
        name="m",
        seed=np.uint8(3),  # type: ignore[arg-type]
        weights={"a0": np.float64(1.0)},
        compact=np.bool_(False),  # type: ignore[arg-type]
        **options,
    )
    assert same["merge_id"] == plain["merge_id"]


def test_an_unknown_keyword_of_a_call_without_options_is_python_s_own_error(where: Path) -> None:
    with pytest.raises(TypeError, match="sourcs"):
        lego_ray.verify(where, sourcs=where)  # type: ignore[call-arg]


def test_a_call_with_another_annotation_is_found_at_import() -> None:
    def call(value: complex) -> None: ...

    with pytest.raises(TypeError, match="no check for value"):
        checked(call)
