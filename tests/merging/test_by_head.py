"""MiniMax-H3, whose rows of a fused projection DiffSynth writes by heads, against diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_conversion_utils
from diffusers.loaders import lora_pipeline as loaders

import lego_ray
from lego_ray.errors import LayoutMismatch
from tests.image_zoo import Updates
from tests.lone_zoo import load, tensors_of, total, updates_of, write
from tests.merging.test_lone_files import merge
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

QKV = "blocks.0.attn.qkv_proj"
SHAPE = (16, 2 * 3 * 128)
TO_DIFFUSERS: Any = lora_conversion_utils._convert_non_diffusers_minimax_h3_lora_to_diffusers
# How DiffSynth, others and diffusers write a projection and a layer whose halves change places.
DIFFSYNTH = tensors_of({QKV: SHAPE, "blocks.0.mlp.fc1": (8, 24)}, ends="default", seed=1)
AGAIN = tensors_of({QKV: SHAPE}, ends="default", seed=2)
OTHERS = tensors_of(
    {f"diffusion_model.{QKV}": SHAPE, "diffusion_model.blocks.0.mlp.fc1": (8, 24)}, seed=3
)
HERE = tensors_of(
    {f"transformer.transformer_blocks.0.attn.to_{part}": (16, 256) for part in "qkv"}
    | {"transformer.transformer_blocks.0.ff.net.0.proj": (8, 24)},
    seed=4,
)


def read(tensors: Any) -> Updates:
    """By diffusers' names; those that are diffusers' already as they are."""
    if any(key.startswith("transformer.") for key in tensors):
        return updates_of(tensors)
    return updates_of(TO_DIFFUSERS({key: tensor.clone() for key, tensor in tensors.items()}))


@pytest.mark.parametrize(
    ("zoo", "options"),
    [
        ([DIFFSYNTH, AGAIN], {}),
        ([DIFFSYNTH, OTHERS], {}),
        ([DIFFSYNTH, HERE], {}),
        ([DIFFSYNTH, OTHERS, HERE], {"method": "svd"}),
        ([DIFFSYNTH, AGAIN], {"layout": "comfyui"}),
        ([DIFFSYNTH, OTHERS], {"layout": "kohya"}),
        ([DIFFSYNTH, OTHERS], {"layout": "diffusers"}),
    ],
    ids=["marked", "mix", "split", "all", "comfyui", "kohya", "diffusers"],
)
def test_rows_of_two_orders_become_one(tmp_path: Path, zoo: Any, options: Any) -> None:
    for number, tensors in enumerate(zoo):
        write(tmp_path / f"zoo/{number}.safetensors", tensors)
    record = merge(tmp_path / "zoo", tmp_path / "m", **options)
    got = read(load(tmp_path / "m"))
    assert relative_error(got, total(*map(read, zoo))) < F32_ROUNDING
    is_kept = len(zoo) == 2 and zoo[1] is AGAIN and not options
    assert is_kept != any("Comfy-Org" in warning for warning in record["warnings"])
    lego_ray.verify(tmp_path / "m", sources=[tmp_path / "zoo"])


def unmarked(tensors: Any) -> Any:
    """The same adapter as trainers write it that have rows by parts, without a prefix."""
    out = {}
    for key, tensor in tensors.items():
        if ".default." in key and key.startswith(f"{QKV}.lora_B"):
            heads = tensor.reshape(2, 3, 128, -1)
            tensor = torch.cat([heads[:, part].reshape(256, -1) for part in range(3)])
        out[key.replace(".default.", ".").removeprefix("diffusion_model.")] = tensor
    return out


@pytest.mark.parametrize(
    ("first", "more"),
    [([DIFFSYNTH, AGAIN], OTHERS), ([DIFFSYNTH, AGAIN], DIFFSYNTH), ([unmarked(OTHERS)], AGAIN)],
    ids=["others to marked", "marked to marked", "marked to others"],
)
def test_an_update_keeps_the_order_of_the_merge(tmp_path: Path, first: Any, more: Any) -> None:
    found = []
    for name, written in (("a", dict), ("b", unmarked)):
        for number, tensors in enumerate(first):
            write(tmp_path / name / f"zoo/{number}.safetensors", written(tensors))
        write(tmp_path / name / "more.safetensors", written({k: 2 * t for k, t in more.items()}))
        options: Any = {"rank": 4, "method": "lego", "updatable": True}
        merge(tmp_path / name / "zoo", tmp_path / name / "m", **options)
        added = tmp_path / name / "more.safetensors"
        output = tmp_path / name / "v2"
        lego_ray.update(tmp_path / name / "m", add=[added], output=output, runner="inline")
        found.append(read(load(output)))
    assert relative_error(*found) < F32_ROUNDING


def test_parts_do_not_go_into_rows_by_heads(tmp_path: Path) -> None:
    write(tmp_path / "zoo/a.safetensors", DIFFSYNTH)
    write(tmp_path / "zoo/b.safetensors", AGAIN)
    merge(tmp_path / "zoo", tmp_path / "m", rank=4, method="lego", updatable=True)
    write(tmp_path / "more.safetensors", HERE)
    with pytest.raises(LayoutMismatch, match="by heads"):
        lego_ray.update(tmp_path / "m", add=[tmp_path / "more.safetensors"], output=tmp_path / "v2")


@pytest.mark.parametrize(
    ("tensors", "scale", "says"),
    [
        (OTHERS, 4.0, "as diffusers takes it"),  # rank 2, alpha 8
        ({f"{QKV}.alpha": torch.tensor(2.0), **AGAIN}, 1.0, ""),
        (HERE, 1.0, "sglang"),  # names of Flux.1's and others' too
    ],
    ids=["theirs", "with tensors", "any model's"],
)
def test_an_alpha_of_the_header(tmp_path: Path, tensors: Any, scale: float, says: str) -> None:
    write(tmp_path / "a.safetensors", tensors, alpha="8")
    record = merge(tmp_path / "a.safetensors", tmp_path / "m")
    wanted = {name: scale * update for name, update in read(tensors).items()}
    assert relative_error(read(load(tmp_path / "m")), wanted) < F32_ROUNDING
    notes = "".join(each["note"] for each in record["notes"])
    assert (says in notes) if says else "alpha" not in notes


def test_the_base_model_says_whose_alpha_it_is(tmp_path: Path) -> None:
    """Names of both parts alone do not show the model; diffusers' class of it takes the header's."""
    file = write(tmp_path / "a.safetensors", HERE, alpha="8")
    state, metadata = loaders.MiniMaxH3LoraLoaderMixin.lora_state_dict(
        str(file.parent), weight_name=file.name, return_lora_metadata=True
    )
    assert metadata["transformer.lora_alpha"] == 8
    write(file, HERE, alpha="8", ss_base_model_version="minimax-h3")
    merge(file, tmp_path / "m")
    wanted = {name: 4 * update for name, update in updates_of(state).items()}
    assert relative_error(read(load(tmp_path / "m")), wanted) < F32_ROUNDING
