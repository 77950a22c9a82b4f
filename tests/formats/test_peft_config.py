"""The configuration: PEFT's own pattern rule and scaling, and strict types."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from lego_ray.errors import AdapterRefused, MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.peft_config import parse_config
from lego_ray.formats.peft_patterns import compile_patterns, exact_key, lookup


def config(**fields: object) -> bytes:
    return json.dumps({"peft_type": "LORA", **fields}).encode()


SITES = [
    "q_proj",
    "layers.0.q_proj",
    "layers.10.q_proj",
    "layers.0.self_attn.xq_proj",
    "model.layers.1.mlp.down_proj",
    "a+b",
]
PATTERNS = [
    ["q_proj"],
    ["0.q_proj", "q_proj"],
    ["^q_proj", "layers.0.q_proj"],
    [".*q_proj", "q_proj"],
    ["q_proj|down_proj", "layers.0.q_proj"],
    [r"layers\.\d+\.q_proj"],
    ["a+b", "b"],
    ["^layers.0.q_proj$"],
    ["", "q_proj"],
]


@pytest.mark.parametrize("keys", PATTERNS)
@pytest.mark.parametrize("site", SITES)
def test_patterns_follow_peft(keys: list[str], site: str) -> None:
    table = {key: float(i) for i, key in enumerate(keys, start=1)}
    expected = table.get(get_pattern_key(list(table), site))
    assert lookup(compile_patterns(table, "rank_pattern", "w"), site) == expected


# Suffixes, expressions, and keys with PEFT's prefix, which it does not take off.
KEYS = (
    *(
        "a",
        "a.b",
        "b",
        ".",
        "^a",
        "a|b",
        "a.*",
        r"\d",
        "[ab]",
        "b$",
        "(a|b).b",
        "(?:a|b)",
        "^",
        "$",
    ),
    *(
        r"a\.b",
        "a?b",
        "A",
        "(?!a).",
        "base_model.model.a",
        r"^base_model\.model\.b",
        "a{1,2}",
        ".b",
    ),
)


@given(
    st.lists(st.sampled_from(KEYS)),
    st.text("ab.0", max_size=8),
)
def test_any_pattern_list_follows_peft(keys: list[str], site: str) -> None:
    table = {key: float(i) for i, key in enumerate(keys, start=1)}
    expected = table.get(get_pattern_key(list(table), site))
    assert lookup(compile_patterns(table, "rank_pattern", "w"), site) == expected


@given(st.lists(st.text("ab.+*(", min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
def test_exact_keys_speak_for_their_site_alone(sites: list[str]) -> None:
    table = {exact_key(site, sites): float(i) for i, site in enumerate(sites)}
    for order in (table, dict(sorted(table.items()))):  # PEFT sorts them when it saves
        patterns = compile_patterns(order, "rank_pattern", "w")
        assert [lookup(patterns, site) for site in sites] == list(range(len(sites)))
        for site, key in zip(sites, table, strict=True):
            assert get_pattern_key(list(order), site) == key


def test_exact_keys_are_plain_names_where_they_can_be() -> None:
    sites = ["layers.0.q", "layers.1.q", "decoder.layers.1.q", "layers.1xq"]
    keys = [exact_key(site, sites) for site in sites]
    assert keys == ["layers.0.q", r"^layers\.1\.q", "decoder.layers.1.q", "layers.1xq"]


def test_scaling() -> None:
    fields = {"r": 16, "lora_alpha": 8, "rank_pattern": {"q": 4}, "alpha_pattern": {"0.q": 10}}
    plain = parse_config(config(**fields), "w")
    assert (plain.rank_of("v"), plain.alpha_of("v"), plain.scaling_of("v")) == (16, 8, 0.5)
    assert (plain.rank_of("0.q"), plain.alpha_of("0.q"), plain.scaling_of("0.q")) == (4, 10, 2.5)
    rooted = parse_config(config(**fields, use_rslora=True), "w")
    assert (rooted.scaling_of("v"), rooted.scaling_of("0.q")) == (2, 5)


def test_defaults_are_those_of_peft() -> None:
    found = parse_config(config(rank_pattern=None, task_type=None), "w")
    assert (found.r, found.lora_alpha, found.use_rslora) == (8, 8, False)
    assert (found.base_model, found.bias, found.modules_to_save) == ("", "none", ())


def test_a_negative_alpha_is_a_negative_scaling() -> None:
    found = parse_config(config(r=4, lora_alpha=-8, alpha_pattern={"q": -1.0}), "w")
    assert (found.scaling_of("v"), found.scaling_of("q")) == (-2, -0.25)


def test_a_byte_order_mark_is_let_through() -> None:
    assert parse_config(b"\xef\xbb\xbf" + config(r=3), "w").r == 3


WRONG: dict[str, list[Any]] = {
    "r": [0, -1, 1.5, 8.0, "8", True, None, [8], 2**40],
    "lora_alpha": [0, -1e300, "16", True, None, {}, 1e300],
    "use_rslora": [1, "true"],
    "rank_pattern": [[], "q", {"q": 0}, {"q": 1.5}, {"q": "4"}, {"q": True}, {"(": 4}, {"*": 4}],
    "alpha_pattern": [[], {"q": 0}, {"q": "4"}, {"[": 4}],
    "base_model_name_or_path": [1, [], {}],
    "task_type": [1],
    "fan_in_fan_out": ["yes"],
    "bias": ["some", 1],
    "modules_to_save": ["score", [1], [""], {}],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_wrong_values_are_named(field: str, value: object) -> None:
    with pytest.raises(MalformedAdapter, match=field) as caught:
        parse_config(config(**{field: value}), "w/adapter_config.json")
    assert caught.value.where == "w/adapter_config.json"
    assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"3",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"r": NaN}',
        b'{"r": 4, "r": 8}',
        b'{"a": "\\ud800"}',
        b'{"a": ' * 100_000,
        b'{"r": ' + b"9" * 5000 + b"}",
    ],
)
def test_bytes_that_are_no_configuration(data: bytes) -> None:
    with pytest.raises(MalformedAdapter):
        parse_config(data, "w")


@pytest.mark.parametrize(
    "key",
    ["(a+)+$", "(a|a)*b", "a?" * 30 + "a" * 30, "(a|b)" * 30, "(a?){30}", r"(a)\1", "(?P<x>a)(?P=x)",
     "(?x: a)", ".*" * 5, "(?:a*)*", "((a+)b)+", "a" * 3000],
)  # fmt: skip
def test_patterns_that_could_hang_are_refused(key: str) -> None:
    started = time.thread_time()
    with pytest.raises(UnsupportedAdapter, match="for ever") as caught:
        parse_config(config(rank_pattern={key: 4}), "w")
    assert "rank_pattern" in str(caught.value)
    assert time.thread_time() - started < 1


@given(st.text(r"ab.*+?(){}|[]\1,^$:=!<>P", max_size=14))
def test_any_pattern_matches_at_once_or_is_refused(key: str) -> None:
    started = time.thread_time()
    try:
        patterns = compile_patterns({key: 1.0}, "rank_pattern", "w")
    except AdapterRefused:
        return
    lookup(patterns, "a" * 40 + "!")
    assert time.thread_time() - started < 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(WRONG)), JSON))
def test_any_values_are_read_or_refused(fields: dict[str, object]) -> None:
    try:
        found = parse_config(config(**fields), "w")
    except AdapterRefused:
        return
    assert found.scaling_of("layers.0.q_proj") > 0
