"""Forms: strict, first fault first, and every fault in plain words with its path."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.forms import Form, Many, Table, null_is, read_as, sentence_of


class Inner(Form):
    size: Annotated[int, Field(ge=0)] = 0


class Example(Form):
    name: str
    factor: Annotated[float, Field(gt=0, lt=1e30, allow_inf_nan=False)] = 1
    is_on: Annotated[bool, null_is(False)] = False
    kind: Literal["one", "two"] = "one"
    parts: Many[Inner] = ()
    sizes: Table[int] = Field(default_factory=dict)
    pair: Annotated[Many[int], Field(min_length=2, max_length=2)] = (1, 2)


def read(content: object) -> Example:
    return read_as(Example, content, lambda faults: MalformedAdapter("file", sentence_of(faults)))


def test_what_fits_is_taken_as_it_is() -> None:
    found = read(
        {"name": "a", "factor": 3, "is_on": None, "parts": [{"size": 2}], "sizes": {"x": 1}, "?": 1}
    )
    assert (found.name, found.factor, found.is_on, found.kind) == ("a", 3.0, False, "one")
    assert (found.parts, found.sizes) == ((Inner(size=2),), {"x": 1})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": None}, "name: None; expected text"),
        ({"name": b"a"}, "name: b'a'; expected text"),
        ({"factor": "1"}, "factor: '1'; expected a number"),
        ({"factor": True}, "factor: True; expected a number"),
        ({"factor": 10**400}, "factor: 1000"),
        ({"factor": 0}, "factor: 0; expected more than 0"),
        ({"factor": 1e31}, "factor: 1e+31; expected less than 1e+30"),
        ({"factor": float("nan")}, "factor: nan; expected a finite number"),
        ({"is_on": 1}, "is_on: 1; expected true or false"),
        ({"kind": "three"}, "kind: 'three'; expected 'one' or 'two'"),
        ({"parts": {"size": 1}}, "parts: {'size': 1}; expected a list"),
        ({"parts": [{}, 3]}, "parts[1]: 3; expected a mapping of names to values"),
        ({"parts": [{"size": 1.0}]}, "parts[0].size: 1.0; expected a whole number"),
        ({"parts": [{"size": True}]}, "parts[0].size: True; expected a whole number"),
        ({"parts": [{"size": -1}]}, "parts[0].size: -1; expected at least 0"),
        ({"sizes": []}, "sizes: []; expected a mapping of names to values"),
        ({"sizes": {"x": "1"}}, "sizes.x: '1'; expected a whole number"),
        ({"pair": [1]}, "pair: [1]; expected a list of at least 2"),
        ({"pair": [1, 2, 3]}, "pair: [1, 2, 3]; expected a list of at most 2"),
        ({"name": "a" * 500, "kind": "x" * 500}, f"kind: '{'x' * 79}...; expected"),
    ],
)
def test_faults_are_in_plain_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedAdapter) as caught:
        read({"name": "a", **fields})
    assert caught.value.problem.startswith(said)
    assert len(caught.value.problem) < 200
    assert "pydantic" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("content", [[], None, 3, "text"])
def test_what_is_no_mapping_is_refused(content: object) -> None:
    with pytest.raises(MalformedAdapter, match=r"it: .*; expected a mapping of names to values"):
        read(content)


def test_several_faults_are_one_sentence() -> None:
    fields = {"factor": "", "is_on": "", "kind": "", "parts": ""}
    with pytest.raises(MalformedAdapter) as caught:
        read(fields)
    assert caught.value.problem == (
        "name: missing; factor: ''; expected a number; is_on: ''; expected true or false; and 2 more"
    )


@pytest.mark.parametrize(
    "content",
    [
        {"name": "a", "parts": [1] * 1_000_000},
        {"name": "a", "sizes": dict.fromkeys(map(str, range(1_000_000)), "")},
    ],
    ids=["list", "table"],
)
def test_of_a_million_faults_one_is_found(content: dict[str, Any]) -> None:
    with pytest.raises(MalformedAdapter) as caught:
        read(content)
    # With all of them, each would take hundreds of bytes.
    assert "more" not in caught.value.problem
