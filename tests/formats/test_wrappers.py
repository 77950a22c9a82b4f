"""Names that training wrappers leave in keys, in front and inside, and patterns that have them."""

from __future__ import annotations

import pytest

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.architectures.twice import check_named_once
from lego_ray.formats.peft_config import config_from
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.formats.wrappers import (
    WRAPPERS,
    by_plain_key,
    check_in_doubt,
    of_twice,
    unwrapped,
    wrappers_in,
)

KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def span(name: str) -> TensorSpan:
    return TensorSpan(name, "F32", (1, 1), 0, 4)


@pytest.mark.parametrize("wrapper", [f"{name}." for name in WRAPPERS])
def test_wrappers_are_left_out_wherever_they_stand(wrapper: str) -> None:
    parts = KEY.split(".")
    for at in range(len(parts) - 1):
        key = ".".join(parts[:at]) + "." * bool(at) + wrapper * (1 + at % 2) + ".".join(parts[at:])
        assert unwrapped(key) == KEY


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        (f"module.{KEY}", KEY),
        (f"module._orig_mod.module.{KEY}", KEY),
        (f"base_model.model.{KEY}", KEY),
        (f"base_model.model.module.{KEY}", KEY),
        (f"base_model.model._orig_mod.base_model.model.{KEY}", KEY),
        ("unet.base_model.model.conv_in.lora_A.weight", "unet.conv_in.lora_A.weight"),
        ("module.unet.conv_in.lora_A.weight", "unet.conv_in.lora_A.weight"),
        ("lora_unet__orig_mod_blocks_0_x.alpha", "lora_unet_blocks_0_x.alpha"),
        ("lora_unet_blocks_0__fsdp_wrapped_module_x.alpha", "lora_unet_blocks_0_x.alpha"),
    ],
)
def test_prefixes_and_flattened_names(key: str, plain: str) -> None:
    assert unwrapped(key) == plain


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        "base_model.model.m.0.module.q.lora_A.weight",
        "base_model.model.my_orig_mod.q.lora_A.weight",
        "base_model.model.base_model.layers.0.q.lora_A.weight",
        "lora_unet_blocks_0_mod_x.lora_down.weight",
        "transformer.h.0.attn.lora_a",
    ],
)
def test_other_names_stay(key: str) -> None:
    assert unwrapped(key) == key


def test_a_file_with_both_is_refused_with_both() -> None:
    other = f"_orig_mod.{KEY}"
    with pytest.raises(MalformedAdapter) as caught:
        by_plain_key([span(KEY), span(other)], "f")
    assert all(key in caught.value.problem for key in (KEY, other))
    with pytest.raises(MalformedAdapter, match=r"a\.q and a\.module\.q"):
        check_in_doubt(["a.module.q", "a.q"], "f")
    check_in_doubt(["a.module.q", "a.v"], "f")


def test_a_file_with_two_spellings_is_refused_with_both() -> None:
    for other in ("lora_te1_x_0", "lora_te__x_0", "text_encoder.x.0"):
        with pytest.raises(MalformedAdapter) as caught:
            check_named_once(["lora_te_x_0", other], "f")
        assert all(site in caught.value.problem for site in ("lora_te_x_0", other))
    check_named_once(["unet.a.b_c", "unet.a_b.c", "lora_te1_x", "lora_te2_x"], "f")


def test_what_was_left_out_is_noted() -> None:
    assert wrappers_in([span(KEY)]) == ""
    assert f"1 of its keys, such as _orig_mod.{KEY}" in wrappers_in([span(f"_orig_mod.{KEY}")])


@pytest.mark.parametrize(
    "pattern",
    [
        "model._orig_mod.layers.0.q_proj",
        r"model\._orig_mod\.layers\.0\..*",
        "layers.0._fsdp_wrapped_module.q_proj",
        "layers.0.q_proj._checkpoint_wrapped_module",
        "_orig_mod.model.layers.0.q_proj",
    ],
)
def test_patterns_mean_the_site_without_wrappers(pattern: str) -> None:
    fields = {"r": 4, "lora_alpha": 4, "rank_pattern": {pattern: 2}, "alpha_pattern": {pattern: 6}}
    config = config_from(fields, "f")
    assert config.scaling_of("model.layers.0.q_proj") == 3
    assert config.scaling_of("model.layers.1.q_proj") == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "base_model.model.model.layers.0.q_proj",
        r"^base_model\.model\.base_model\.model\.model\.layers\.0\.q_proj",
        r"base_model.model._orig_mod.model\.layers\.0\..*",
    ],
)
def test_pefts_prefix_keeps_a_pattern_from_matching_except_where_the_model_has_it(
    pattern: str,
) -> None:
    table = {pattern: 8}
    config = config_from({"r": 4, "lora_alpha": 4, "alpha_pattern": table}, "f")
    assert config.scaling_of("model.layers.0.q_proj") == 1
    twice = config_from({"r": 4, "lora_alpha": 4, "alpha_pattern": of_twice(table)}, "f")
    assert twice.scaling_of("model.layers.0.q_proj") == 2
    assert of_twice({"base_model.model.a": 1, "a": 2}) == {"a": 1}


def test_patterns_older_than_a_wrapper_mean_its_site() -> None:
    config = config_from({"r": 4, "lora_alpha": 4, "alpha_pattern": {"0.attn.q": 8}}, "f")
    assert config.scaling_of("m.0.attn.module.q") == 2
    saved = config_from({"modules_to_save": ["_orig_mod.score"]}, "f")
    assert saved.modules_to_save == ("score",)
