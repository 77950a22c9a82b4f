"""diffusers' converters against the rules for kohya's and diffusers' layouts, each shown to be true."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin, WanLoraLoaderMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

import lego_ray
from lego_ray.errors import UnreadableOutput
from lego_ray.formats.readers.check import check_readers
from lego_ray.formats.readers.outgoing import outgoing_of
from tests.image_zoo import DIFFUSERS_FILE, write_diffusers

logging.getLogger("diffusers").setLevel(logging.ERROR)
WAN = (
    *(f"self_attn_{part}" for part in "qkvo"),
    *(f"cross_attn_{part}" for part in "qkvo"),
    *("ffn_0", "ffn_2"),
)
FLUX = "lora_transformer_single_transformer_blocks_0_attn_to_"


def write(file: Path, names: Mapping[str, int], *, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, rank in names.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, 8, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(8, rank, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def merge(zoo: Path, output: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    given = {"rank": 8, "method": "concat", "runner": "inline", **options}
    record = lego_ray.merge(zoo, output=output, **given)
    return record, load_file(next(output.glob("*.safetensors")))


def updates(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ends = ".lora_A.weight"
    return {
        key.removesuffix(ends): tensors[key.replace("lora_A", "lora_B")].double() @ a.double()
        for key, a in tensors.items()
        if key.endswith(ends)
    }


@pytest.mark.parametrize(
    ("names", "loader"),
    [
        ([f"lora_unet_blocks_0_{name}" for name in WAN], WanLoraLoaderMixin),
        ([f"{FLUX}{part}" for part in "qkv"], FluxLoraLoaderMixin),
    ],
    ids=["musubi's Wan", "OneTrainer's Flux"],
)
@pytest.mark.parametrize("compact", [False, True], ids=["padded", "compact"])
def test_names_whose_reader_needs_alphas_have_them(
    names: list[str], loader: Any, compact: bool, tmp_path: Path
) -> None:
    files = [
        write(
            tmp_path / "z" / f"{s}.safetensors", {n: s + i % 2 for i, n in enumerate(names)}, seed=s
        )
        for s in (2, 3)
    ]
    _, merged = merge(tmp_path / "z", tmp_path / "m", compact=compact)
    got = updates(loader.lora_state_dict(dict(merged)))
    parts = [updates(loader.lora_state_dict(load_file(file))) for file in files]
    assert got
    for name, update in got.items():
        torch.testing.assert_close(update, parts[0][name] + parts[1][name], rtol=1e-5, atol=1e-5)
    # The rule is diffusers': without them it raises.
    bare = {key: t for key, t in merged.items() if not key.endswith(".alpha")}
    with pytest.raises(KeyError):
        loader.lora_state_dict(dict(bare))
    assert "alpha" in refused(bare, "kohya", tmp_path)


def test_a_wan_merge_that_diffusers_takes_only_whole_is_told(tmp_path: Path) -> None:
    names = {f"lora_unet_blocks_0_{name}": 2 for name in WAN[:3]}
    write(tmp_path / "z" / "a.safetensors", names)
    record, merged = merge(tmp_path / "z", tmp_path / "m")
    assert [w for w in record["warnings"] if "diffusers takes Wan" in w]
    with pytest.raises(KeyError):
        WanLoraLoaderMixin.lora_state_dict(dict(merged))


def test_wan_outside_its_blocks_is_reported_and_anima_is_not_taken_for_it(tmp_path: Path) -> None:
    names = {f"lora_unet_blocks_0_{name}": 2 for name in WAN}
    write(tmp_path / "z" / "a.safetensors", {**names, "lora_unet_time_projection_1": 2})
    record, merged = merge(tmp_path / "z", tmp_path / "m")
    assert [w for w in record["warnings"] if "lora_unet_time_projection_1" in w]
    with pytest.raises(IndexError):
        WanLoraLoaderMixin.lora_state_dict(dict(merged))
    for number, wanted in enumerate((names, {"lora_unet_blocks_0_self_attn_q_proj": 2})):
        write(tmp_path / f"z{number}" / "a.safetensors", wanted)
        record, _ = merge(tmp_path / f"z{number}", tmp_path / f"m{number}")
        assert not [w for w in record["warnings"] if "Wan" in w]


def test_a_prefix_that_comfyui_does_not_know_is_told(tmp_path: Path) -> None:
    write(tmp_path / "z" / "a.safetensors", {"lora_control_input_hint_0": 2})
    record, _ = merge(tmp_path / "z", tmp_path / "m")
    assert [w for w in record["warnings"] if "ComfyUI" in w]


def refused(tensors: Mapping[str, Tensor], layout: str, tmp_path: Path, **metadata: str) -> str:
    file = tmp_path / "broken.safetensors"
    save_file(dict(tensors), file, metadata)
    with pytest.raises(UnreadableOutput) as error:
        check_readers(outgoing_of(layout, str(file), file.read_bytes(), None))
    return str(error.value)


def test_broken_kohya_files_are_refused(tmp_path: Path) -> None:
    write(
        tmp_path / "z" / "a.safetensors", {"lora_unet_mid_block_x": 2, "lora_unet_mid_block_y": 3}
    )
    _, merged = merge(tmp_path / "z", tmp_path / "m")
    up = "lora_unet_mid_block_x.lora_up.weight"
    assert "one factor" in refused({k: t for k, t in merged.items() if k != up}, "kohya", tmp_path)
    doubled = {k: 2 * t if k.endswith(".alpha") else t for k, t in merged.items()}
    assert "multiply" in refused(doubled, "kohya", tmp_path)
    more = {**merged, "lora_unet_mid_block_z.alpha": torch.tensor(8.0)}
    assert "of no module" in refused(more, "kohya", tmp_path)
    assert "of no LoRA" in refused({**merged, "odd": torch.ones(1)}, "kohya", tmp_path)
    mixed, _ = {}, None
    for key, tensor in merged.items():
        if ".alpha" not in key:
            k = 2 if "_x." in key else 3
            mixed[key] = tensor[:k].contiguous() if "down" in key else tensor[:, :k].contiguous()
    mixed |= {
        f"lora_unet_mid_block_{n}.alpha": torch.tensor(float(k)) for n, k in (("x", 2), ("y", 3))
    }
    assert "alphas differ" in refused(mixed, "kohya", tmp_path)


def test_broken_diffusers_files_are_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_diffusers(tmp_path / "z" / DIFFUSERS_FILE)
    _, merged = merge(tmp_path / "z", tmp_path / "m", rank=4)
    with safe_open(tmp_path / "m" / DIFFUSERS_FILE, "pt") as opened:
        metadata = opened.metadata()
    first = next(key for key in merged if ".lora_A." in key)
    site = first.removesuffix(".lora_A.weight")
    cases = {
        "one factor": {k: t for k, t in merged.items() if k != first},
        "rank": {k: t[:2].contiguous() if k == first else t for k, t in merged.items()},
        "of no component": {**merged, "foo.bar.lora_A.weight": torch.ones(4, 2)},
        "alpha is in": {**merged, f"{site}.alpha": torch.tensor(4.0)},
        "does not name": {
            **merged,
            "unet.extra.lora_A.weight": torch.ones(4, 2),
            "unet.extra.lora_B.weight": torch.ones(2, 4),
        },
    }
    for text, tensors in cases.items():
        assert text in refused(tensors, "diffusers", tmp_path, **metadata)
