"""Inputs made up at random, and valid ones changed at random: a value or a typed error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.fuzzing.targets import TARGETS, run
from lego_ray.catalog import choosing
from tests.hostile.held import SECRET, check_error

CORPUS = Path(__file__).parent / "corpus"

# The same examples in every run, so that CI says yes or no for the change and not by chance.
EXAMPLES = settings(
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# Each example of these starts a process, and files of the corpus hold conditions that need one: they
# would never end, or take all memory.
STARTS_PROCESSES = {"where": 6}

NASTY = st.sampled_from(
    [
        *(
            "",
            ".",
            "..",
            "../../x",
            "/etc/passwd",
            "\0",
            "\n",
            "\u202e",
            "\x1b[2J",
            "é",
            "e\u0301",
            "²",
        ),
        *(
            "x" * 300,
            "'",
            '"',
            "`|<b>",
            "-1",
            "1e999",
            "nan",
            "None",
            "~",
            "*",
            "[a-",
            "{0}",
            "%s",
        ),
    ]
)
TEXT = NASTY | st.text(max_size=12)
NUMBER = (
    st.integers(-3, 40)
    | st.sampled_from([2**31, 2**63, 2**64, 10**30, -(2**63)])
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def changed(valid: Any) -> st.SearchStrategy[Any]:
    """A JSON value with one place in it replaced, removed or added."""
    places = list(_places(valid, ()))

    def change(chosen: tuple[tuple[Any, ...], str, Any]) -> Any:
        place, how, value = chosen
        copy = json.loads(json.dumps(valid))
        if not place:
            return value
        at = copy
        for part in place[:-1]:
            at = at[part]
        if how == "remove":
            del at[place[-1]]
        elif how == "add" and isinstance(at, dict):
            at[str(value)] = value
        else:
            at[place[-1]] = value
        return copy

    hows = st.sampled_from(["replace", "replace", "remove", "add"])
    return st.tuples(st.sampled_from(places), hows, JSON).map(change)


def _places(value: Any, above: tuple[Any, ...]) -> Any:
    yield above
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*above, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _places(each, (*above, number))


def valid(target: str, name: str = "valid") -> bytes:
    return (CORPUS / target / name).read_bytes()


def structured(target: str, name: str = "valid") -> st.SearchStrategy[bytes]:
    made = changed(json.loads(valid(target, name)))
    return made.map(lambda value: json.dumps(value).encode())


def header_of(value: Any) -> bytes:
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


HEADER = json.loads(valid("header")[8 : 8 + int.from_bytes(valid("header")[:8], "little")])
RECIPE = {
    "sources": ["a"],
    "catalog": "c",
    "output": "o",
    "defaults": {"rank": 4, "method": "lego", "options": {"n_init": 2}, "seed": 1},
    "merges": [
        {
            "name": "x",
            "where": "rank < 3",
            "weights": {"a": 2.0},
            "output_scale": "sum-fit*0.5",
            "groups": {"count": "auto", "alone_below": 0.1},
            "sites": {"q": {"scale": 2.0}},
        },
        {"name": "y", "rank": "auto", "rank_error": 0.3, "adapters": ["b"], "exclude": ["c"]},
    ],
}
PART = st.sampled_from(
    [
        *(
            "lora_unet_",
            "base_model.model.",
            "unet.",
            "text_encoder.",
            ".lora_A",
            ".lora_B",
            ".weight",
        ),
        *(
            ".lora_down",
            ".lora_up",
            ".alpha",
            ".processor",
            ".to_q_lora",
            ".lora_a",
            ".lora_b",
        ),
        *(
            ".down",
            ".up",
            ".lora_linear_layer",
            ".lora_embedding_A",
            ".modules_to_save",
            ".default",
        ),
        *(
            "down_blocks_1_",
            "input_blocks_1_",
            "encoder.layers.0.mlp.fc1",
            "layers.0.q",
            ".",
            "_",
        ),
    ]
)
NAME = st.lists(PART | TEXT, min_size=1, max_size=7).map("".join)
NAMES = st.lists(NAME, min_size=1, max_size=6).map("\n".join)
SQL = st.sampled_from(
    [
        *(
            "rank",
            "uri",
            "tags",
            "tags.task",
            "1",
            "'x'",
            "=",
            "<",
            "and",
            "or",
            "not",
            "(",
            ")",
            ",",
        ),
        *(
            "select",
            "from",
            "adapters",
            "union",
            "all",
            "--",
            "/*",
            ";",
            "null",
            "in",
            "case",
            "end",
        ),
        *(
            "read_text('/etc/passwd')",
            "'/etc/passwd'",
            "order by",
            "limit",
            "values",
            "*",
            "::int",
        ),
    ]
)

MADE: dict[str, st.SearchStrategy[bytes]] = {
    "header": changed(HEADER).map(header_of),
    "config": structured("config") | structured("config", "valid-mlx"),
    "names": NAMES.map(lambda text: text.encode("utf-8", "surrogatepass")),
    "metadata": structured("metadata"),
    "recipe": changed(RECIPE).map(lambda value: yaml.safe_dump(value).encode())
    | changed(RECIPE).map(lambda value: json.dumps(value).encode()),
    "where": st.lists(SQL | TEXT, max_size=6).map(
        lambda words: " ".join(words).encode("utf-8", "surrogatepass")
    ),
    "uri": st.lists(
        st.sampled_from(["s3://", "hf://", "file://", "/", "..", "@", "\n", "~", "%2e", "a", ":"])
        | TEXT,
        max_size=6,
    ).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass")),
    "manifest": structured("manifest"),
    "marker": structured("marker") | structured("marker", "task"),
    "card": changed({"license": "mit", "tags": ["a", "b:c"], "base_model": "a/b"}).map(
        lambda value: f"---\n{yaml.safe_dump(value)}---\n".encode()
    ),
}


@pytest.mark.parametrize("target", MADE)
def test_what_is_made_up_gives_a_value_or_a_typed_error(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No condition made of these words is long or large, so this process can decide it.
    monkeypatch.setattr(choosing, "choose", choosing.decide)
    steady = EXAMPLES

    @steady
    @given(MADE[target])
    def holds(data: bytes) -> None:
        check_error(run(target, data))

    holds()


@pytest.mark.parametrize("target", TARGETS)
def test_changed_bytes_give_a_value_or_a_typed_error(target: str) -> None:
    # A secret is known by its form, which a change may break; the corpus test has these as they are.
    files = [
        f for f in sorted((CORPUS / target).iterdir()) if SECRET.encode() not in f.read_bytes()
    ]
    steady = settings(EXAMPLES, max_examples=STARTS_PROCESSES.get(target, EXAMPLES.max_examples))

    @steady
    @given(st.sampled_from(files), st.data())
    def holds(file: Path, data: st.DataObject) -> None:
        content = file.read_bytes()[:4096]
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 6))
        new = data.draw(st.binary(max_size=6))
        check_error(run(target, content[:at] + new + content[at + cut :]))

    holds()
