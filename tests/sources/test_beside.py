"""What lies beside adapters: trained with one and not merged, or a LoRA in a file that is not read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.cli.main import main
from lego_ray.errors import StrictRefusal
from tests.image_zoo import DIFFUSERS_FILE, write_diffusers, write_kohya
from tests.sources.trainer_output import resume_files
from tests.zoo import WEIGHTS, write_adapter


def notes_of(record: dict[str, Any]) -> list[str]:
    return [each["note"] for each in record["notes"]]


def reasons(record: dict[str, Any]) -> dict[str, str]:
    return {Path(each["adapter"]).name: each["reason"] for each in record["refused"]}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("non_lora_trainables.bin", "weights that are not LoRA's"),
        ("non_lora_state_dict.bin", "weights that are not LoRA's"),
        ("value_head.safetensors", "a value head"),
        ("v_head.bin", "a value head"),
        ("mm_projector.bin", "a projector"),
        ("projector.safetensors", "a projector"),
        ("modules_to_save.bin", "whole modules"),
        ("classifier.pt", "a head"),
        ("new_embeddings.safetensors", "embeddings"),
        ("learned_embeds-steps-500.safetensors", "embeddings"),
    ],
)
def test_what_was_trained_with_an_adapter_is_noted(name: str, what: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "zoo" / "a", seed=1)
    resume_files(folder)
    write_adapter(tmp_path / "zoo" / "b", seed=2)
    tensors = {"v_head.summary.weight": torch.ones(1, 2)}
    save_file(tensors, folder / name) if name.endswith("s") else torch.save(tensors, folder / name)
    record = lego_ray.scan(tmp_path / "zoo")
    said = f"beside it lies {name} ({what}), trained with it and not merged"
    assert record["notes"] == [{"adapter": str(folder), "note": said}]
    assert record["refused"] == []
    plan = lego_ray.plan(tmp_path / "zoo", rank=2)
    assert plan.as_json()["notes"] == record["notes"]
    merged = lego_ray.merge(tmp_path / "zoo", rank=2, output=tmp_path / "m", runner="inline")
    assert merged["notes"] == record["notes"]


def test_the_terminal_shows_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_adapter(tmp_path / "zoo" / "a", seed=1)
    torch.save({}, folder / "value_head.bin")
    run = ["--rank", "2", "--runner", "inline", "--output", str(tmp_path / "m")]
    for command in (["scan"], ["plan", "--rank", "2"], ["merge", *run]):
        main([command[0], str(tmp_path / "zoo"), *command[1:]])
        assert "note      " in (said := capsys.readouterr().out)
        assert "beside it lies value_head.bin (a value head)" in said


def test_embeddings_beside_a_lora_of_diffusers_are_its_own(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "run" / DIFFUSERS_FILE)
    for name in ("run_emb", "learned_embeds"):
        save_file({"clip_l": torch.ones(2, 8)}, tmp_path / "run" / f"{name}.safetensors")
    assert [note.split()[3] for note in notes_of(lego_ray.scan(tmp_path))] == [
        "learned_embeds.safetensors",
        "run_emb.safetensors",
    ]


def test_embeddings_in_a_folder_of_many_are_nobody_s(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_kohya(tmp_path / f"{seed}.safetensors", seed=seed)
    save_file({"clip_l": torch.ones(2, 8)}, tmp_path / "some_emb.safetensors")
    record = lego_ray.scan(tmp_path)
    assert (record["notes"], record["refused"]) == ([], [])


def test_weights_in_an_adapter_s_folder_that_are_of_no_use_are_noted(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    write_kohya(folder / "other.safetensors")
    torch.save({}, folder / "lora.pt")
    save_file({"x": torch.ones(1)}, folder / "model.safetensors")
    assert notes_of(lego_ray.scan(tmp_path)) == [
        f"beside it lies {name}, which is not read: the adapter is {WEIGHTS}"
        for name in ("lora.pt", "other.safetensors")
    ]


def _wrapped(tensors: dict[str, torch.Tensor], file: Path) -> None:
    torch.save({"state_dict": tensors, "epoch": 3}, file)


def _old(tensors: dict[str, torch.Tensor], file: Path) -> None:
    torch.save(tensors, file, _use_new_zipfile_serialization=False)


def _gguf(tensors: dict[str, torch.Tensor], file: Path) -> None:
    del tensors
    key, value = b"adapter.lora.alpha", b"blk.0.attn_q.weight.lora_a"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(16) + key + bytes(12) + value)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("old style.pt", torch.save),
        ("x.pth", torch.save),
        ("x.PT", torch.save),
        ("older.ckpt", _wrapped),
        ("lora.bin", torch.save),
        ("legacy.pt", _old),
        ("x.gguf", _gguf),
    ],
)
def test_a_lora_in_a_file_that_is_not_read_is_refused_by_name(
    name: str, save: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    write_kohya(tmp_path / "a.safetensors")
    write_kohya(tmp_path / "x" / "b.safetensors", seed=2)
    tensors = load_file(tmp_path / "x" / "b.safetensors")
    save(tensors, tmp_path / name)
    record = lego_ray.scan(tmp_path)
    assert len(record["adapters"]) == 2
    assert list(reasons(record)) == [name]
    assert "is a LoRA in a ." in reasons(record)[name]
    with pytest.raises(StrictRefusal):
        lego_ray.scan(tmp_path, strict=True)
    assert lego_ray.scan(tmp_path, exclude=[name], strict=True)["refused"] == []


def test_torchtunes_pickle_is_sent_to_the_file_that_it_writes_for_peft(tmp_path: Path) -> None:
    torch.save({"layers.0.attn.q_proj.lora_a.weight": torch.ones(2, 2)}, tmp_path / "adapter_0.pt")
    [reason] = reasons(lego_ray.scan(tmp_path)).values()
    assert "which torchtune writes for PEFT" in reason


def test_nemos_checkpoints_are_refused_by_name_once(tmp_path: Path) -> None:
    write_kohya(tmp_path / "a.safetensors")
    for name in ("x.nemo", "weights/__0_0.distcp", "weights/__0_1.distcp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"PK")
    record = lego_ray.scan(tmp_path)
    assert len(record["adapters"]) == 1
    assert sorted(reasons(record)) == ["__0_0.distcp", "x.nemo"]
    assert all("checkpoint of NeMo" in each for each in reasons(record).values())
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (tmp_path / "alone/x.nemo").write_bytes(b"PK")
    assert "Export it to PEFT" in reasons(lego_ray.scan(tmp_path))["alone"]


def test_peft_s_keys_in_a_pickle_are_known_too(tmp_path: Path) -> None:
    tensors = load_file(write_adapter(tmp_path / "a") / WEIGHTS)
    torch.save(tensors, tmp_path / "loose.pt")
    assert list(reasons(lego_ray.scan(tmp_path))) == ["loose.pt"]


def test_other_files_of_these_types_are_no_word_worth(tmp_path: Path) -> None:
    write_kohya(tmp_path / "a.safetensors")
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "model.ckpt")
    torch.save({"string_to_param": {"*": torch.ones(2, 8)}}, tmp_path / "embedding.pt")
    (tmp_path / "llama.gguf").write_bytes(b"GGUF\x03\x00\x00\x00general.architecture llama")
    (tmp_path / "empty.pt").write_bytes(b"")
    resume_files(tmp_path)
    record = lego_ray.scan(tmp_path, strict=True)
    assert (len(record["adapters"]), record["notes"], record["refused"]) == (1, [], [])


def test_an_adapter_in_parts_is_refused_for_that_once(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts = [dict(list(tensors.items())[at::2]) for at in (0, 1)]
    for number, part in enumerate(parts, 1):
        name = f"-0000{number}-of-00002.safetensors"
        save_file(part, folder / f"adapter_model{name}")
        (tmp_path / "loose").mkdir(exist_ok=True)
        save_file(part, tmp_path / "loose" / f"lora{name}")
        save_file({"x": torch.ones(1)}, tmp_path / "loose" / f"model{name}")
    (folder / "adapter_model.safetensors.index.json").write_text("{}")
    record = lego_ray.scan(tmp_path)
    assert sorted(reasons(record)) == ["a", "lora-00001-of-00002.safetensors"]
    assert all("its weights are in 2 files" in reason for reason in reasons(record).values())


def test_a_configuration_beside_a_pickle_says_what_is_there(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    torch.save(load_file(folder / WEIGHTS), folder / "adapter.pt")
    (folder / WEIGHTS).unlink()
    [reason] = reasons(lego_ray.scan(tmp_path)).values()
    assert "its weights are in adapter.pt, a type of file that is not read" in reason
