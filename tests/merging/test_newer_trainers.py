"""Files of newer trainers: read and merged with those of others, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lego_ray
from lego_ray.errors import UnsupportedAdapter
from lego_ray.formats.reading import is_adapter
from tests.image_zoo import Updates
from tests.lone_zoo import load, tensors_of, total, updates_of, write
from tests.merging.test_two_namings import merge, names
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error, write_adapter

Tensors = Mapping[str, Tensor]


def reason_of(place: Path) -> str:
    """Why an adapter is not taken, as `inspect` says it."""
    [found] = lego_ray.inspect(place).found
    assert found.status == "refused"
    return found.reason or ""


def merged(root: Path, *parts: Tensors, layout: str = "sources") -> dict[str, Tensor]:
    """The sum of adapters."""
    for number, part in enumerate(parts):
        write(root / f"zoo/{number}.safetensors", part)
    merge(root / "zoo", root / "m", layout=layout)
    return load(root / "m")


ANIMA = ("blocks.0.self_attn.q_proj", "blocks.0.mlp.layer1")


@pytest.mark.parametrize("begin", ["net.", "diffusion_model."])
def test_onetrainers_names_of_anima_are_those_of_comfyui_under_another_prefix(
    begin: str, tmp_path: Path
) -> None:
    one = tensors_of([f"net.{path}" for path in ANIMA], alpha=1.0, seed=1)
    two = tensors_of([f"{begin}{path}" for path in ANIMA], seed=2)
    got = updates_of(merged(tmp_path, one, two, layout="comfyui"))
    wanted = [
        {name.partition(".")[2]: update for name, update in updates_of(part).items()}
        for part in (one, two)
    ]
    assert names(tmp_path / "m") == {f"diffusion_model.{path}" for path in ANIMA}
    plain = {name.removeprefix("diffusion_model."): update for name, update in got.items()}
    assert relative_error(plain, total(*wanted)) < F32_ROUNDING
    merge(tmp_path / "zoo", tmp_path / "n")  # where no layout is asked for, one prefix for both
    assert len({name.partition(".")[0] for name in names(tmp_path / "n")}) == 1


@pytest.mark.parametrize("path", ["layers.0.attention.qkv", "layers.0.attention.o"])
def test_bare_names_of_ideogram_4_are_an_image_models(path: str, tmp_path: Path) -> None:
    part = tensors_of({path: (8, 24)}, alpha=1.0)
    assert relative_error(updates_of(merged(tmp_path, part)), updates_of(part)) < F32_ROUNDING


# Of HiDream-O1, as ai-toolkit writes them; musubi-tuner has `model.` before these.
O1 = (
    *("language_model.layers.0.self_attn.q_proj", "language_model.layers.0.mlp.up_proj"),
    *("visual.blocks.0.attn.proj", "x_embedder.proj1", "t_embedder1.mlp.0", "final_layer2.linear"),
)


def test_modules_of_hidream_o1_are_one_under_both_trainers_names(tmp_path: Path) -> None:
    flat = {f"lora_unet_model_{path.replace('.', '_')}" for path in O1}
    one = tensors_of(sorted(flat), ends="down_up", alpha=1.0, seed=1)
    two = tensors_of([f"diffusion_model.{path}" for path in O1], seed=2)
    legacy = tensors_of([f"diffusion_model.model.{path}" for path in O1[:1]], seed=3)
    alone = tensors_of(["diffusion_model.model.visual.blocks.1.attn.proj"], seed=4)
    parts = (one, two, legacy, alone)

    def by_module(tensors: Tensors) -> Updates:
        out: Updates = {}
        for name, update in updates_of(tensors).items():
            path = name.removeprefix("lora_unet_").removeprefix("diffusion_model.")
            out[path.removeprefix("model_").removeprefix("model.").replace(".", "_")] = update
        return out

    got = by_module(merged(tmp_path, *parts))
    assert len(got) == len(names(tmp_path / "m")) == len(O1) + 1
    assert relative_error(got, total(*map(by_module, parts))) < F32_ROUNDING


def test_prefixes_of_hidream_o1_are_not_mixed_in_a_file(tmp_path: Path) -> None:
    new = tensors_of([f"diffusion_model.{path}" for path in O1], seed=1)
    old = tensors_of([f"diffusion_model.model.{path}" for path in (*O1[:1], *O1[1:2])], seed=2)
    more = tensors_of(["diffusion_model.model.language_model.layers.7.mlp.up_proj"], seed=3)
    merged(tmp_path, new, new, {**old, **more})
    assert all(".model." not in name for name in names(tmp_path / "m"))


@pytest.mark.parametrize("module", ["qkv_proj", "mlp_fc1", "mlp_context_fc1"])
def test_packed_factors_of_nunchaku_are_refused_by_name(module: str, tmp_path: Path) -> None:
    name = f"transformer_blocks.0.{module}"
    tensors = {f"{name}.lora_down": torch.ones(16, 16), f"{name}.lora_up": torch.ones(48, 16)}
    file = write(tmp_path / "a.safetensors", tensors)
    assert "Nunchaku packed" in reason_of(file)
    assert "converted to this one" in reason_of(file)


def test_the_one_matrix_of_singlora_is_refused_by_name(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.safetensors",
        {"transformer.transformer_blocks.0.attn.to_q.lora_A": torch.ones(8, 2)},
    )
    assert "SingLoRA has one matrix" in reason_of(file)


def save_as_peft(folder: Path, tensors: Tensors, **fields: object) -> Path:
    write(folder / "adapter_model.safetensors", tensors)
    config = {"r": 2, "lora_alpha": 2, "target_modules": ["q"], "base_model_name_or_path": "b"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    return folder


def test_settings_of_singlora_are_refused_by_name(tmp_path: Path) -> None:
    tensors = tensors_of(["base_model.model.layers.0.q"])
    folder = save_as_peft(tmp_path / "a", tensors, peft_type="LORA", ramp_up_steps=100)
    assert "SingLoRA has one matrix" in reason_of(folder)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"swift_type": "LORA", "peft_type": "LORA"}, "model.layers.0.q.lora_{}.default.weight"),
        ({"swift_type": "LORA", "peft_type": "LORA"}, "base_model.model.layers.0.q.lora_{}.weight"),
        ({"swift_type": "LORA"}, "model.layers.0.q.lora_{}.default.weight"),
        ({"swift_type": "LLAMAPRO", "num_new_blocks": 4}, "model.layers.{}.mlp.up_proj.weight"),
        ({"swift_type": "ADAPTER", "dim": 8}, "model.layers.0.mlp.adapter_default.{}.weight"),
    ],
)
def test_ms_swifts_own_form_is_refused_with_what_converts_it(
    fields: dict[str, object], key: str, tmp_path: Path
) -> None:
    tensors = {key.format("A"): torch.ones(2, 8), key.format("B"): torch.ones(8, 2)}
    save_as_peft(tmp_path / "a" / "default", tensors, **fields)
    (tmp_path / "a" / "configuration.json").write_text("{}")
    reason = reason_of(tmp_path / "a")
    assert reason.startswith("UnsupportedAdapter")
    assert "ms-swift saved it in its own form" in reason
    assert "save_to_peft_format" in reason


@pytest.mark.parametrize(
    "module",
    [
        "text_model.encoder.layers.0.self_attn.out_proj",
        "encoder.layers.0.self_attn.out_proj",
        "encoder.layers.0.mlp.fc1",
        "encoder.block.0.layer.0.SelfAttention.q",
    ],
)
def test_names_of_a_text_encoder_alone_ask_which_encoder(module: str) -> None:
    with pytest.raises(
        UnsupportedAdapter, match=r"any text encoder .* begin with .*text_encoder_2"
    ):
        is_adapter(tensors_of([module]), "a.safetensors")


@pytest.mark.parametrize("begin", ["text_encoder.", "text_encoder_2."])
def test_the_hint_for_a_text_encoder_can_be_followed(begin: str, tmp_path: Path) -> None:
    part = tensors_of([f"{begin}text_model.encoder.layers.0.self_attn.out_proj"])
    assert relative_error(updates_of(merged(tmp_path, part)), updates_of(part)) < F32_ROUNDING


def test_pointers_of_git_lfs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 151042888\n"
    write(tmp_path / "zoo" / "a.safetensors", tensors_of(["diffusion_model.blocks.0.self_attn.q"]))
    file = tmp_path / "zoo" / "b.safetensors"
    file.write_text(text)
    folder = write_adapter(tmp_path / "peft")
    (folder / "adapter_model.safetensors").write_text(text)
    for place in (file, folder):
        assert "git lfs pull" in reason_of(place)
    plan = lego_ray.plan(tmp_path / "zoo", rank=2)
    assert [(each.uri, "Git LFS" in each.reason) for each in plan.refused] == [(str(file), True)]
