"""Zoos in which one module has several names: what is merged, as PEFT and diffusers load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import LayoutMismatch
from tests.formats.tiny_peft import edit_config, peft_deltas, save, train
from tests.image_zoo import DIFFUSERS_FILE, summed, update_of, write_diffusers, write_kohya
from tests.output.test_diffusers_loads import check, flattened, nothing_is_left_out
from tests.output.test_diffusers_loads import loaded as loaded_by_diffusers
from tests.output.test_peft_loads import F32_ROUNDING, arrays, loaded
from tests.zoo import relative_error

__all__ = ["nothing_is_left_out"]


def renamed(file: Path, change: Callable[[str], str]) -> Path:
    named = {change(key): tensor for key, tensor in load_file(file).items()}
    save_file(named, file, {"ss_base_model_version": "sd_v1"})
    return file


def merge(sources: Any, output: Path, **options: Any) -> dict[str, Any]:
    given = {"rank": 16, "method": "concat", "runner": "inline", **options}
    return lego_ray.merge(sources, output=output, **given)


WRAPPED: dict[str, Callable[[str], str]] = {
    "front": lambda key: f"_orig_mod.{key}",
    "ddp": lambda key: f"module.{key}",
    "inside": lambda key: key.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "leaf": lambda key: key.replace(".lora_A", "._checkpoint_wrapped_module.lora_A"),
    "twice": lambda key: f"base_model.model.{key}",
    "module": lambda key: key.replace("layers.", "module.layers."),
    "root": lambda key: key.replace("base_model.model.", "base_model.model.module."),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_peft_loads_the_sum_of_wrapped_and_plain(kind: str, tmp_path: Path) -> None:
    models = [train(seed=1), train(seed=2, r=3, use_rslora=True, alpha_pattern={"q_proj": 5})]
    for name, model in zip("ab", models, strict=True):
        save(model, tmp_path / "zoo" / name)
    renamed(tmp_path / "zoo/b/adapter_model.safetensors", WRAPPED[kind])
    record = merge(tmp_path / "zoo", tmp_path / "m", catalog=tmp_path / "c")
    assert any("_orig_mod" in w or "module" in w or "twice" in kind for w in record["warnings"])
    got = arrays(peft_deltas(loaded(tmp_path / "m")))
    wanted = [arrays(peft_deltas(model)) for model in models]
    assert relative_error(got, {s: wanted[0][s] + wanted[1][s] for s in wanted[0]}) < F32_ROUNDING
    report = lego_ray.verify(tmp_path / "m", sources=[tmp_path / "zoo"])
    assert (report["ok"], report["sites"]) == (True, len(wanted[0]))


def test_one_wrapped_adapter_gets_plain_names(tmp_path: Path) -> None:
    model = train(seed=1)
    save(model, tmp_path / "a")
    renamed(tmp_path / "a/adapter_model.safetensors", lambda key: f"_orig_mod.{key}")
    edit_config(tmp_path / "a", rank_pattern={"_orig_mod.layers.0.q_proj": 4})
    merge(tmp_path / "a", tmp_path / "m", rank=4, method="lego")
    got, wanted = arrays(peft_deltas(loaded(tmp_path / "m"))), arrays(peft_deltas(model))
    assert relative_error(got, wanted) < F32_ROUNDING


SPELLED: dict[str, Callable[[str], str]] = {
    "te1": lambda key: key.replace("lora_te_", "lora_te1_"),
    "two underscores": lambda key: key.replace("lora_unet_", "lora_unet__"),
    "compiled": lambda key: key.replace("lora_unet_", "lora_unet__orig_mod_"),
}


@pytest.mark.parametrize("kind", SPELLED)
def test_diffusers_loads_the_sum_of_two_spellings(kind: str, tmp_path: Path) -> None:
    one = write_kohya(tmp_path / "zoo/a.safetensors", seed=1)
    two = write_kohya(tmp_path / "zoo/b.safetensors", seed=2, rank=3)
    renamed(tmp_path / "zoo/b.safetensors", SPELLED[kind])
    merge(tmp_path / "zoo", tmp_path / "m")
    got = flattened(loaded_by_diffusers(tmp_path / "m", weight_name="m.safetensors"))
    check(got, summed([one, two]))
    merge(
        [tmp_path / "zoo/b.safetensors", tmp_path / "zoo/a.safetensors"],
        tmp_path / "n",
        name="m",
    )
    first, second = (tmp_path / place / "m.safetensors" for place in "mn")
    assert first.read_bytes() == second.read_bytes()


def test_diffusers_loads_the_sum_where_peft_was_left_in(tmp_path: Path) -> None:
    one = write_diffusers(tmp_path / "zoo/a" / DIFFUSERS_FILE, seed=1)
    two = write_diffusers(tmp_path / "zoo/b" / DIFFUSERS_FILE, seed=2)
    renamed(
        tmp_path / "zoo/b" / DIFFUSERS_FILE,
        lambda key: key.replace("unet.", "unet.base_model.model._orig_mod."),
    )
    merge(tmp_path / "zoo", tmp_path / "m", base_model="sd")
    check(loaded_by_diffusers(tmp_path / "m"), summed([one, two]))


def test_an_update_takes_other_spellings_in_and_out(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_kohya(tmp_path / "zoo" / f"{name}.safetensors", seed=number)
    renamed(tmp_path / "zoo/c.safetensors", SPELLED["te1"])
    both = [tmp_path / f"zoo/{name}.safetensors" for name in "ab"]
    options = {"updatable": True, "method": "lego", "rank": 4, "n_init": 2}
    merge(both, tmp_path / "m", **options)
    added = lego_ray.update(tmp_path / "m", add=[tmp_path / "zoo/c.safetensors"], runner="inline")
    assert added["skipped_sites"] == []
    gone = lego_ray.update(added["output"], remove=["c"], runner="inline")
    before = update_of(tmp_path / "m" / "m.safetensors")
    [file] = Path(gone["output"]).glob("*.safetensors")
    assert relative_error(update_of(file), before) < F32_ROUNDING


def test_an_update_refuses_another_naming(tmp_path: Path) -> None:
    write_kohya(tmp_path / "zoo/a.safetensors", seed=1)
    write_kohya(tmp_path / "zoo/b.safetensors", seed=2)
    write_kohya(tmp_path / "new/c.safetensors", seed=3)
    renamed(
        tmp_path / "new/c.safetensors",
        lambda key: key.replace("_down_blocks_0", "_input_blocks_1").replace("mid_", "middle_"),
    )
    merge(tmp_path / "zoo", tmp_path / "m", updatable=True, method="lego", rank=4, n_init=2)
    with pytest.raises(LayoutMismatch, match=r"input_blocks.*down_blocks"):
        lego_ray.update(tmp_path / "m", add=[tmp_path / "new"], runner="inline")


def test_groups_of_other_spellings_have_one_name(tmp_path: Path) -> None:
    for number, name in enumerate("abcd"):
        write_kohya(tmp_path / "zoo" / f"{name}.safetensors", seed=number % 2)
    renamed(tmp_path / "zoo/d.safetensors", SPELLED["te1"])
    recipe = tmp_path / "library.yaml"
    recipe.write_text(
        f"sources: [{tmp_path / 'zoo'}]\noutput: {tmp_path / 'out'}\n"
        "merges:\n  - name: all\n    rank: 4\n    base_model: sd\n    groups: 2\n"
        "    sites: {lora_te_text_model_encoder_layers_1_mlp_fc1: {scale: 2}}\n"
    )
    record = lego_ray.build(recipe, runner="inline")
    assert {merge["sites"] for merge in record["merges"]} == {10}
