"""Which of a file's modules PEFT loads, with PEFT as the judge."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import MalformedAdapter, OutputExists
from lego_ray.formats.peft_config import config_from
from lego_ray.formats.peft_experts import ExpertConfig
from lego_ray.formats.peft_targets import Targets
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from tests.formats.tiny_peft import (
    ALL_KINDS,
    FLOAT32,
    TinyModel,
    edit_config,
    our_deltas,
    peft_deltas,
    read,
    save,
    train,
    weights_file,
)
from tests.zoo import CONFIG, update_of, write_adapter

MODULES = (
    *(f"layers.{i}.{name}" for i in (0, 1) for name in ("q_proj", "v_proj")),
    *("model.layers.0.mlp.experts.1.up_proj", "model.layers.10.mlp.up_proj", "emb", "conv"),
    *("model.decoder.layers.1.q_proj", "score", "model.score.dense", "xlayers.0.q_proj"),
)
NAMES = st.sampled_from(
    (
        *MODULES,
        "q_proj",
        "0.q_proj",
        "_proj",
        "up_proj",
        "model",
        "dense",
        "layers.1",
        "",
        "experts",
    )
)
EXPRESSIONS = st.sampled_from(
    (
        *("q_proj", r".*\.q_proj", r".*(q|v)_proj", r"layers\.\d+\.q_proj", ".*", "emb|conv", ""),
        *("^layers.*", r".*experts\..*", r"(?!layers\.0).*", r".*\.[01]\.\w+", "ALL-linear"),
    )
)
LISTS = st.lists(NAMES, max_size=4)
LAYERS = st.none() | st.integers(0, 10) | st.lists(st.integers(0, 10), max_size=3)
PATTERNS = st.none() | st.sampled_from(("layers", "experts", "", "h|layers", r"model\.layers", "x"))


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    targets = draw(LISTS | EXPRESSIONS)
    fields: dict[str, Any] = {
        "target_modules": targets,
        "exclude_modules": draw(st.none() | LISTS | EXPRESSIONS),
        "modules_to_save": draw(
            st.none() | st.lists(st.sampled_from(("score", "emb")), max_size=2)
        ),
    }
    if isinstance(targets, list):  # PEFT accepts these with a list alone
        fields["layers_to_transform"] = draw(LAYERS)
        if fields["layers_to_transform"] is not None:
            fields["layers_pattern"] = draw(
                PATTERNS | st.lists(st.sampled_from(("layers", "h")), max_size=2)
            )
    return fields


@settings(max_examples=400, deadline=None)
@given(configurations())
@example({"target_modules": ["layers.0.q_proj"], "layers_to_transform": [1]})
@example({"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"})
def test_loads_the_modules_that_peft_does(fields: dict[str, Any]) -> None:
    is_all = str(fields["target_modules"]).lower() == "all-linear"
    # Which modules are linear, the base model says.
    config = LoraConfig(**(fields | {"target_modules": list(MODULES)} if is_all else fields))
    expected = [name for name in MODULES if check_target_module_exists(config, name)]
    names = [f"base_model.model.{name}.lora_A.weight" for name in MODULES]
    read_as = config_from(fields, "c")
    targets = Targets.of(fields, read_as, ExpertConfig.of(fields, "c"), names, "c")
    assert [name for name in MODULES if targets.loads(name)] == expected
    assert not targets.unread


CASES: dict[str, dict[str, Any]] = {
    "fewer": {"target_modules": ["q_proj", "emb"]},
    "expression": {"target_modules": r"layers\.0\..*"},
    "excluded": {"exclude_modules": ["0.q_proj", "conv"]},
    "excluded by an expression": {"exclude_modules": ".*proj"},
    "layers": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "saved": {"modules_to_save": ["emb"]},
    # Python's matcher alone could take exponential time.
    "many choices": {"target_modules": r"(.*?(?:a|b|l|m|n).*?(?:q|k|v|o|up|down)_proj|.*?emb.*?)*"},
}


@cache
def _trained() -> PeftModel:
    return train(3)


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_what_peft_passes_over_is_left_out_with_a_note(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    model = _trained()
    path = save(model, tmp_path / "adapter")
    if "modules_to_save" in fields:  # of which the file then has the weights
        tensors = load_file(weights_file(path))
        tensors["base_model.model.emb.weight"] = torch.zeros(20, 6)
        save_file(tensors, weights_file(path), metadata={"format": "pt"})
    edit_config(path, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = peft_deltas(PeftModel.from_pretrained(TinyModel(), str(path)))
    record = read(path, full_weights="drop")
    ours = our_deltas(path, record)
    assert ours.keys() == expected.keys()
    for site, delta in expected.items():
        torch.testing.assert_close(ours[site], delta, **FLOAT32)
    gone = sorted(peft_deltas(model).keys() - expected.keys())
    told = [note for note in record.notes if "PEFT does not load the tensors" in note]
    assert len(told) == 1
    assert gone[0] in told[0]


def test_an_adapter_of_which_peft_loads_nothing_is_refused(tmp_path: Path) -> None:
    path = edit_config(save(train(3), tmp_path / "adapter"), exclude_modules=".*")
    with pytest.raises(
        MalformedAdapter, match=r"PEFT would load no module.*exclude_modules matches"
    ):
        read(path)


def test_a_list_from_before_the_keys_were_renamed_is_not_compared_and_noted(tmp_path: Path) -> None:
    whole = read(save(train(3), tmp_path / "whole"))
    path = edit_config(save(train(3), tmp_path / "renamed"), target_modules=["query", "value"])
    record = read(path)
    assert [site.site for site in record.sites] == [site.site for site in whole.sites]
    assert [n for n in record.notes if n.startswith("target_modules matches no module")]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"target_modules": 5}, "target_modules is '5'"),
        ({"target_modules": ["q_proj", 5]}, "expected a list of names"),
        ({"target_modules": "*.q_proj"}, "target_modules.*is not a regular expression"),
        ({"exclude_modules": {"a": 1}}, "exclude_modules is"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform is"),
        ({"layers_to_transform": True}, "layers_to_transform is"),
        ({"layers_to_transform": 0, "layers_pattern": 3}, "layers_pattern is"),
        ({"layers_to_transform": 0, "layers_pattern": "("}, "layers_pattern.*regular expression"),
    ],
)
def test_fields_of_a_wrong_type_are_refused(
    tmp_path: Path, fields: dict[str, Any], problem: str
) -> None:
    path = edit_config(save(_trained(), tmp_path / "adapter"), **fields)
    with pytest.raises(MalformedAdapter, match=problem):
        read(path)


def test_an_expression_that_could_take_too_long_is_not_compared_and_noted(tmp_path: Path) -> None:
    path = edit_config(save(_trained(), tmp_path / "adapter"), target_modules=r"(.*a|.*b)*(?=q).*")
    record = read(path)
    assert len(record.sites) == len(read(save(_trained(), tmp_path / "other")).sites)
    assert [n for n in record.notes if "target_modules has an expression" in n]


@pytest.mark.parametrize(
    ("fields", "gone", "absent"),
    [
        ({"target_modules": [*ALL_KINDS, "score"]}, "", "score"),
        ({"target_modules": [*ALL_KINDS, "x"], "exclude_modules": ["x"]}, "", ""),
        ({}, "layers.1.v_proj", "layers.1.v_proj"),
        ({"target_modules": r"layers\..*_proj|emb|conv"}, "layers.0.q_proj", "layers.0.q_proj"),
        ({"exclude_modules": ["1.v_proj"]}, "layers.1.v_proj", ""),
        ({}, "", ""),
    ],
)
def test_modules_that_peft_starts_at_random_are_noted(
    tmp_path: Path, fields: dict[str, Any], gone: str, absent: str
) -> None:
    path = save(_trained(), tmp_path / "adapter")
    tensors = load_file(weights_file(path))
    kept = {key: t for key, t in tensors.items() if not gone or f".{gone}." not in key}
    save_file(kept, weights_file(path), metadata={"format": "pt"})
    edit_config(path, **fields)
    assert not [n for n in read(path).notes if "random" in n]
    edit_config(path, init_lora_weights=False)
    notes = [n for n in read(path).notes if "random" in n]
    assert len(notes) == bool(absent)
    if absent:
        assert f"no tensors of {absent}:" in notes[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = [
                peft_deltas(PeftModel.from_pretrained(TinyModel(), str(path)))[absent]
                for _ in range(2)
            ]
        assert not torch.equal(*loaded)


def test_a_merge_holds_what_its_own_target_modules_match(tmp_path: Path) -> None:
    kept = ["layers.0.q_proj", "layers.1.q_proj"]
    write_adapter(tmp_path / "zoo/a", seed=1, target_modules=["q_proj"])
    write_adapter(tmp_path / "zoo/b", seed=2, missing=("layers.1.v_proj",))
    out = tmp_path / "out"
    done = lego_ray.merge(
        str(tmp_path / "zoo"), output=str(out), method="concat", rank=8, runner="inline"
    )
    config = json.loads((out / CONFIG).read_text())
    assert config["target_modules"] == [kept[0], "layers.0.v_proj", kept[1]]
    a, b, merged = update_of(tmp_path / "zoo/a"), update_of(tmp_path / "zoo/b"), update_of(out)
    expected = {**b, **{site: a[site] + b[site] for site in kept}}
    assert merged.keys() == expected.keys()
    for site, update in expected.items():
        torch.testing.assert_close(torch.tensor(merged[site]), torch.tensor(update), **FLOAT32)
    noted = [each for each in done["notes"] if "PEFT does not load" in each["note"]]
    assert [each["adapter"] for each in noted] == [str(tmp_path / "zoo/a")]
    assert "layers.0.v_proj, layers.1.v_proj" in noted[0]["note"]


def test_a_merge_of_all_tensors_by_an_earlier_release_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "zoo/a", seed=1, target_modules=["q_proj"])
    write_adapter(tmp_path / "zoo/b", seed=2)
    options: dict[str, Any] = {"method": "concat", "rank": 8, "runner": "inline"}
    with monkeypatch.context() as earlier:
        earlier.setattr(Targets, "loads", lambda self, path: True)
        lego_ray.merge(str(tmp_path / "zoo"), output=str(tmp_path / "out"), **options)
    with pytest.raises(OutputExists, match="1 adapter more"):
        lego_ray.merge(str(tmp_path / "zoo"), output=str(tmp_path / "out"), **options)


def test_copies_have_one_id_and_it_is_not_that_of_all_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("zoo/a", "zoo/copy"):
        write_adapter(tmp_path / name, seed=1, target_modules=["q_proj"])
    key = "base_model.model.layers.0.q_proj"
    write_adapter(tmp_path / "zoo/b", seed=2, alpha_pattern={key: 50.0})
    write_adapter(tmp_path / "zoo/c", seed=3, alpha_pattern={"k_proj": 50.0})

    def ids() -> dict[str, str]:
        rows = lego_ray.scan(str(tmp_path / "zoo")).adapters
        return {Path(row["uri"]).name: row["adapter_id"] for row in rows}

    found = ids()
    assert found["a"] == found["copy"]
    with monkeypatch.context() as earlier:
        earlier.setattr(AdapterHeaders, "record", _record)
        before = ids()
    assert {name for name in found if found[name] != before[name]} == {"a", "copy", "b"}


_RECORD = AdapterHeaders.record


def _record(self: AdapterHeaders, *, left_out: str = "", **fields: Any) -> AdapterRecord:
    return _RECORD(self, **fields, left_out="")
