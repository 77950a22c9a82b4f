"""Adapters whose training changed the base model, with the factors that it began with beside them."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor

import lego_ray
from lego_ray.errors import NoAdaptersFound
from tests.merging.test_with_base import check, effect, files_of, load, train, write_base

TARGETS = ["q_proj", "v_proj"]


def trained(base: Path, place: Path, init: str, folder: str, **options: Any) -> dict[str, Tensor]:
    """An adapter with its initial factors in a folder of it, and what it does to the base model."""
    model: Any = load(base)
    fields: dict[str, Any] = {"r": 3, "lora_alpha": 7, "task_type": "CAUSAL_LM"}
    fields |= {"init_lora_weights": init, "target_modules": TARGETS, **options}
    tokens = torch.arange(24).reshape(2, 12) % 40
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if init == "corda":
            fields["corda_config"] = CordaConfig(corda_method="kpm")
            config = LoraConfig(**fields)

            def run() -> None:
                for one in tokens:
                    model(one[None])

            preprocess_corda(model, config, run_model=run)
        elif init == "lora_ga":
            fields["lora_ga_config"] = LoraGAConfig()
            config = LoraConfig(**fields)
            preprocess_loraga(model, config, lambda: model(tokens, labels=tokens).loss.backward())
        else:
            config = LoraConfig(**fields)
        adapted: Any = get_peft_model(model, config)
        adapted.peft_config["default"].init_lora_weights = True
        adapted.save_pretrained(str(place / folder))
        adapted.peft_config["default"].init_lora_weights = init
        generator = torch.Generator().manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        adapted.save_pretrained(str(place))
        after = adapted.merge_and_unload().state_dict()
    return {n: after[n] - t for n, t in before.items() if not torch.equal(after[n], t)}


def merged(source: Path, output: Path, rank: int = 6, **options: Any) -> Any:
    given: dict[str, Any] = {"runner": "inline", "method": "svd", "dtype": "F32", "compact": True}
    return lego_ray.merge(source, output=output, rank=rank, **{**given, **options})


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pissa": ("pissa", "pissa_init", {}),
    "pissa by chance": ("pissa_niter_4", "pissa_init", {"use_rslora": True}),
    "olora": ("olora", "initial", {}),
    "corda": ("corda", "corda_init", {}),
    "lora_ga": ("lora_ga", "lora_ga_init", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_effect_is_peft_s_and_no_base_is_needed(case: str, tmp_path: Path) -> None:
    init, folder, options = CASES[case]
    base = write_base(tmp_path / "base")
    wanted = trained(base, tmp_path / "zoo" / "a", init, folder, **options)
    record = merged(tmp_path / "zoo", tmp_path / "out")
    assert len(record.adapters) == 1
    notes = " ".join(note["note"] for note in record.notes)
    assert f"the factors that training began with are those in {folder}" in notes
    check(effect(base, tmp_path / "out"), wanted)


def test_a_dora_of_one_needs_the_base_and_takes_the_factors(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    place = tmp_path / "zoo" / "a"
    options: dict[str, Any] = {"use_dora": True, "r": 8, "target_modules": ["v_proj"]}
    wanted = trained(base, place, "pissa_niter_4", "pissa_init", **options)
    with pytest.raises(NoAdaptersFound):
        lego_ray.plan(tmp_path / "zoo", rank=3)
    merged(tmp_path / "zoo", tmp_path / "out", 8, base=base)
    check(effect(base, tmp_path / "out"), wanted)


def test_copies_in_its_folders_are_left_out_with_a_note(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    place = tmp_path / "zoo" / "a"
    trained(base, place, "pissa_niter_4", "pissa_init")
    train(base, tmp_path / "zoo" / "plain" / "pissa_init", r=2, target_modules=TARGETS)
    alone = merged(place, tmp_path / "alone")
    for name in ("pissa_backup", "pissa_converted"):
        shutil.copytree(place / "pissa_init", place / name)
    made = lego_ray.plan(tmp_path / "zoo", rank=6)
    found = {adapter.uri.removeprefix(f"{tmp_path}/zoo/") for adapter in made.adapters}
    assert found == {"a", "plain/pissa_init"}  # which is beside no adapter that began with it
    again = lego_ray.plan(place, rank=6)
    notes = " ".join(note["note"] for note in again.as_json()["notes"])
    assert "were left out: pissa_backup pissa_converted" in notes
    named = lego_ray.plan([place, place / "pissa_converted"], rank=6)
    assert len(named.adapters) == 2
    assert len(alone.adapters) == 1


def test_other_initial_factors_are_another_adapter(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    place = tmp_path / "a"
    trained(base, place, "pissa_niter_4", "pissa_init")
    one = lego_ray.plan(place, rank=3)
    file = place / "pissa_init" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\x40")
    other = lego_ray.plan(place, rank=3)
    assert other.adapters[0].adapter_id != one.adapters[0].adapter_id
    assert other.digest != one.digest


def test_factors_that_do_not_fit_and_none_at_all_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    place = tmp_path / "a"
    trained(base, place, "pissa_niter_4", "pissa_init")
    shutil.rmtree(place / "pissa_init")
    with pytest.raises(NoAdaptersFound, match="into a folder pissa_init of its directory"):
        lego_ray.plan(place, rank=3)
    train(base, place / "pissa_init", r=2, target_modules=TARGETS)
    with pytest.raises(NoAdaptersFound, match="init_lora_weights is pissa_niter_4"):
        lego_ray.plan(place, rank=3, exclude=["pissa_init"])
    [refused] = lego_ray.plan(place, rank=3).refused
    assert "has factors of shape [2, 16] and [16, 2] there" in refused.reason


def ids_of(output: Path) -> list[str]:
    manifest = json.loads((output / "lego_ray_manifest.json").read_text())
    return sorted(each["adapter_id"] for each in manifest["sources"])


def test_an_update_and_a_check_take_them(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    trained(base, tmp_path / "zoo" / "a", "corda", "corda_init")
    train(base, tmp_path / "zoo" / "plain", target_modules=TARGETS)
    made = merged(tmp_path / "zoo", tmp_path / "both", method="lego", updatable=True)
    merged(tmp_path / "zoo" / "plain", tmp_path / "one", method="lego", updatable=True)
    updated = lego_ray.update(tmp_path / "one", add=tmp_path / "zoo" / "a", runner="inline")
    assert len(updated.adapters) == 2
    assert ids_of(Path(made.output)) == ids_of(Path(updated.output))
    checked = lego_ray.verify(tmp_path / "both", sources=tmp_path / "zoo")
    assert checked.errors is not None


def test_ray_gives_the_same_bytes(tmp_path: Path, local_ray: None) -> None:
    base = write_base(tmp_path / "base")
    trained(base, tmp_path / "zoo" / "a", "pissa_niter_4", "pissa_init")
    train(base, tmp_path / "zoo" / "plain", target_modules=TARGETS)
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "a" / "out", rank=4, runner="inline")
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "b" / "out", rank=4)
    assert files_of(tmp_path / "a" / "out") == files_of(tmp_path / "b" / "out")
