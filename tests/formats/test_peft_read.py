"""Adapters that PEFT saved: what is read must be what PEFT would apply."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lego_ray.errors import LegoRayError, MalformedAdapter, RankMismatch, UnsupportedAdapter
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

# PEFT casts its result back to the stored type, which has 8 (bf16) or 11 (fp16) bits of mantissa.
STORED: dict[torch.dtype, dict[str, Any]] = {
    torch.bfloat16: {"rtol": 2**-8, "atol": 1e-5},
    torch.float16: {"rtol": 2**-11, "atol": 1e-5},
}

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank_pattern": {"rank_pattern": {"q_proj": 3, "layers.1.v_proj": 2, "emb": 5, "conv": 6}},
    "alpha_pattern": {"alpha_pattern": {r"layers\.\d+\.v_proj": 11, "^conv$": 3}},
    "both_rslora": {
        "rank_pattern": {"^layers.0.q_proj": 7, "q_proj|v_proj": 2},
        "alpha_pattern": {"layers.0.q_proj": 50, "q_proj": 1},
        "use_rslora": True,
    },
    "fan_in_fan_out": {"fan_in_fan_out": True, "target_modules": ["q_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal", "target_modules": ["q_proj"]},
    "mica": {"init_lora_weights": "mica", "target_modules": ["q_proj", "emb"]},
    "velora": {"velora_config": {"num_groups": 4}, "target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_reads_what_peft_applies(tmp_path: Path, options: dict[str, Any], safe: bool) -> None:
    model = train(3, **options)
    path = save(model, tmp_path / "adapter", safe=safe)
    record = read(path)
    expected = peft_deltas(model)
    ours = our_deltas(path, record)
    assert ours.keys() == expected.keys()
    for site, delta in expected.items():
        torch.testing.assert_close(ours[site], delta, **FLOAT32)


def test_modules_inside_of_another_adapters_wrapper_are_read_by_their_own_names(
    tmp_path: Path,
) -> None:
    model = train(4, target_modules=["q_proj", "v_proj"])
    path = save(model, tmp_path / "adapter")
    tensors = load_file(weights_file(path))
    inner = {k.replace(".q_proj.", ".q_proj.base_layer."): t.clone() for k, t in tensors.items()}
    save_file(inner, weights_file(path), metadata={"format": "pt"})
    record = read(path)
    ours = our_deltas(path, record)
    for site, delta in peft_deltas(model).items():
        torch.testing.assert_close(ours[site], delta, **FLOAT32)
    assert any("base_layer was left out of the names of" in note for note in record.notes)
    save_file({**tensors, **inner}, weights_file(path), metadata={"format": "pt"})
    with pytest.raises(MalformedAdapter, match=r"q_proj has two pairs of factors, .*base_layer"):
        read(path)


def test_the_order_of_patterns_is_that_of_the_file(tmp_path: Path) -> None:
    # PEFT sorts the keys when saving, so it reloads this adapter at another strength than it trained.
    model = train(12, target_modules=["q_proj"], alpha_pattern={"q_proj": 1, "layers.0.q_proj": 50})
    path = save(model, tmp_path / "adapter")
    record = read(path)
    reloaded = peft_deltas(PeftModel.from_pretrained(TinyModel(), str(path)))
    for site, delta in our_deltas(path, record).items():
        torch.testing.assert_close(delta, reloaded[site], **FLOAT32)
    assert any("layers.0.q_proj" in note for note in record.notes)


def test_keys_of_patterns_with_pefts_prefix_have_no_effect_as_in_peft(tmp_path: Path) -> None:
    path = save(train(13, target_modules=["q_proj"]), tmp_path / "adapter")
    prefixed = "base_model.model.layers.0.q_proj"
    edit_config(path, alpha_pattern={prefixed: 50, "layers.1.q_proj": 3, "k_proj": 2})
    record = read(path)
    with pytest.warns(RuntimeWarning, match="alpha_pattern keys did not match"):
        reloaded = peft_deltas(PeftModel.from_pretrained(TinyModel(), str(path)))
    for site, delta in our_deltas(path, record).items():
        torch.testing.assert_close(delta, reloaded[site], **FLOAT32)
    told = [note for note in record.notes if "have no effect in PEFT" in note]
    assert len(told) == 1
    assert f"alpha_pattern {prefixed}, k_proj" in told[0]
    # In the file of a model that was made a PEFT model twice, its modules' paths have the prefix.
    tensors = load_file(weights_file(path))
    twice = {f"base_model.model.{key}": tensor for key, tensor in tensors.items()}
    save_file(twice, weights_file(path), metadata={"format": "pt"})
    found = read(path)
    assert {site.site: site.scaling for site in found.sites} == {
        "layers.0.q_proj": 50 / 4,
        "layers.1.q_proj": 3 / 4,
    }
    assert "alpha_pattern k_proj" in " ".join(found.notes)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("dtype", STORED)
def test_half_precision_is_widened(tmp_path: Path, dtype: torch.dtype, safe: bool) -> None:
    model = train(4, dtype=dtype)
    path = save(model, tmp_path / "adapter", safe=safe)
    record = read(path)
    assert record.dtype == {torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    for site, delta in peft_deltas(model).items():
        torch.testing.assert_close(our_deltas(path, record)[site], delta, **STORED[dtype])


def test_record_describes_the_adapter(tmp_path: Path) -> None:
    model = train(5)
    path = edit_config(save(model, tmp_path / "adapter"), base_model_name_or_path="org/base")
    record = read(path, license="mit", tags={"a": "b"})
    kinds = {site.site: site.kind for site in record.sites}
    assert kinds == {
        "layers.0.q_proj": "linear",
        "layers.0.v_proj": "linear",
        "layers.1.q_proj": "linear",
        "layers.1.v_proj": "linear",
        "emb": "embedding",
        "conv": "conv",
        "point": "conv",
        "conv1": "conv",
        "conv3": "conv",
    }
    sizes = {site.site: (site.d_in, site.d_out) for site in record.sites}
    assert sizes["conv"] == (3 * 3 * 2, 5)
    assert sizes["emb"] == (20, 6)
    assert [site.site for site in record.sites] == sorted(kinds)
    assert (record.format, record.base_model, record.license) == ("peft", "org/base", "mit")
    assert record.config == {
        "task_type": None,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "bias": "none",
    }
    trained = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert record.n_params == trained


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_old_dumps_name_the_adapter_in_every_key(tmp_path: Path, safe: bool) -> None:
    model = train(6)
    path = save(model, tmp_path / "adapter")
    dump = {k: v.contiguous() for k, v in model.state_dict().items() if "lora_" in k}
    assert any(".lora_A.default.weight" in key for key in dump)
    assert any(key.endswith(".lora_embedding_A.default") for key in dump)
    weights_file(path).unlink()
    if safe:
        save_file(dump, path / "adapter_model.safetensors")
    else:
        torch.save(dump, path / "adapter_model.bin")
    ours = our_deltas(path, read(path))
    for site, delta in peft_deltas(model).items():
        torch.testing.assert_close(ours[site], delta, **FLOAT32)


def test_a_pissa_adapter_converted_by_peft_is_plain(tmp_path: Path) -> None:
    options: dict[str, Any] = {"init_lora_weights": "pissa", "target_modules": ["q_proj"]}
    model = train(7, **options)
    initial = save(model, tmp_path / "initial")
    edit_config(initial, init_lora_weights=True)
    with pytest.raises(UnsupportedAdapter, match="pissa"):
        read(save(model, tmp_path / "raw"))
    model.save_pretrained(
        str(tmp_path / "plain"), path_initial_model_for_weight_conversion=str(initial)
    )
    record = read(tmp_path / "plain")
    assert set(record.ranks) == {8}


def test_reading_imports_no_torch() -> None:
    code = (
        "import sys, lego_ray.formats.peft, lego_ray.formats.safetensors_header, "
        "lego_ray.formats.torch_bin, lego_ray.formats.identity, lego_ray.formats.model_card\n"
        "sys.exit('torch' in sys.modules or 'yaml' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Full weights


def with_full_weights(tmp_path: Path, **options: Any) -> Path:
    model = train(8, target_modules=["q_proj"], modules_to_save=["score"], **options)
    return save(model, tmp_path / "qa-7b")


def test_full_weights_are_refused_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedAdapter) as caught:
        read(with_full_weights(tmp_path))
    assert "score.weight" in str(caught.value)
    assert "modules_to_save" in str(caught.value)
    assert "--full-weights drop" in caught.value.hint
    assert "--full-weights keep:NAME" in caught.value.hint


def test_full_weights_are_dropped_with_a_note(tmp_path: Path) -> None:
    record = read(with_full_weights(tmp_path), full_weights="drop")
    assert record.full_weights == ()
    assert record.config["modules_to_save"] is None
    assert any("score.weight" in note for note in record.notes)


def test_full_weights_are_kept_with_their_configuration(tmp_path: Path) -> None:
    record = read(with_full_weights(tmp_path, bias="lora_only"), full_weights="keep")
    names = {span.name.removeprefix("base_model.model.") for span in record.full_weights}
    assert names == {
        "score.weight",
        "score.bias",
        "layers.0.q_proj.base_layer.bias",
        "layers.1.q_proj.base_layer.bias",
    }
    assert record.config["modules_to_save"] == ["score"]
    assert record.config["bias"] == "lora_only"


def test_a_bias_setting_without_biases_takes_nothing_away(tmp_path: Path) -> None:
    path = save(train(9, target_modules=["v_proj"], bias="lora_only"), tmp_path / "adapter")
    record = read(path)
    assert record.config["bias"] == "none"


def test_an_embedding_saved_beside_its_factors_is_a_full_weight(tmp_path: Path) -> None:
    path = save(train(10, target_modules=["emb"]), tmp_path / "adapter")
    rewrite(path, {"base_model.model.emb.base_layer.weight": torch.randn(20, 6)})
    with pytest.raises(UnsupportedAdapter, match=r"emb\.base_layer\.weight"):
        read(path)


# Damage


def rewrite(path: Path, add: dict[str, torch.Tensor], drop: str = "\0") -> Path:
    file = path / "adapter_model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if drop not in key}
    save_file({**kept, **add}, file)
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save(train(11, target_modules=["q_proj", "conv"]), tmp_path / "alice" / "qa-7b")


Q = "base_model.model.layers.0.q_proj"


def test_rank_pattern_must_agree_with_the_tensor(adapter: Path) -> None:
    edit_config(adapter, rank_pattern={"layers.0.q_proj": 2})
    with pytest.raises(RankMismatch) as caught:
        read(adapter)
    assert str(caught.value) == (
        f"{adapter}/adapter_config.json: rank_pattern gives layers.0.q_proj rank 2, its tensor has "
        "rank 4. Expected the two to agree. Re-export the adapter, or leave it out with "
        "--exclude qa-7b."
    )


def test_r_must_agree_with_the_tensor(adapter: Path) -> None:
    with pytest.raises(RankMismatch, match="r gives conv rank 5, its tensor has rank 4"):
        read(edit_config(adapter, r=5))


@pytest.mark.parametrize(
    ("add", "drop", "error", "message"),
    [
        ({}, "0.q_proj.lora_A", MalformedAdapter, r"layers\.0\.q_proj has no pair"),
        ({}, "lora_", MalformedAdapter, None),
        ({f"{Q}.lora_B.weight": torch.randn(10, 3)}, "\0", RankMismatch, "rank 4 in A .* 3 in B"),
        ({f"{Q}.lora_A.weight": torch.randn(0, 12)}, "\0", MalformedAdapter, "DeepSpeed"),
        ({f"{Q}.lora_A.weight": torch.randn(48)}, "\0", MalformedAdapter, "two sizes above zero"),
        ({f"{Q}.lora_A.weight": torch.randn(4, 12, 1)}, "\0", MalformedAdapter, "of shape"),
        ({f"{Q}.lora_A.weight": torch.randn(4, 12).double()}, "\0", UnsupportedAdapter, "F64"),
        ({f"{Q}.lora_A.weight": torch.ones(4, 12).int()}, "\0", UnsupportedAdapter, "I32"),
        ({f"{Q}.lora_A.other.weight": torch.randn(4, 12)}, "\0", UnsupportedAdapter, "several"),
        ({f"{Q}.lora_embedding_A": torch.randn(4, 12)}, "\0", MalformedAdapter, "two factors A"),
        ({f"{Q}.something": torch.randn(4, 12)}, "\0", UnsupportedAdapter, r"q_proj\.something"),
        (
            {"base_model.model.conv.lora_B.weight": torch.randn(5, 4, 3, 3)},
            "\0",
            UnsupportedAdapter,
            "1x1",
        ),
        (
            {"base_model.model.conv.lora_B.weight": torch.randn(6, 2, 1, 1)},
            "\0",
            UnsupportedAdapter,
            "2 groups",
        ),
    ],
)
def test_damaged_tensors_are_named(
    adapter: Path,
    add: dict[str, torch.Tensor],
    drop: str,
    error: type[LegoRayError],
    message: str | None,
) -> None:
    if message is None:
        add, message = {"base_model.model.lm_head.weight": torch.randn(3, 2)}, "no lora_A"
    with pytest.raises(error, match=message) as caught:
        read(rewrite(adapter, add, drop), full_weights="drop")
    assert caught.value.hint


def test_keys_without_the_prefix_are_refused(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key.removeprefix("base_model.model."): t for key, t in tensors.items()}, file)
    with pytest.raises(MalformedAdapter, match=r"base_model\.model\.") as caught:
        read(adapter)
    assert "Rename" in caught.value.hint


def test_configurations_written_before_a_field_existed_are_read(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    old = ("peft_type", "r", "lora_alpha", "target_modules")
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k in old}))
    assert len(read(adapter).sites) == 3


def test_every_kind_of_layer_is_covered() -> None:
    assert len(ALL_KINDS) == 7
