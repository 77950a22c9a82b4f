"""Output directories as trainers leave them: names from their own code, tiny adapters inside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.image_zoo import DIFFUSERS_FILE, write_diffusers, write_kohya
from tests.zoo import write_adapter


def resume_files(folder: Path) -> None:
    """What HF's Trainer resumes from."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"state": {"lora_A": torch.ones(1)}}, folder / name)
    (folder / "trainer_state.json").write_text("{}")


def hf_run(root: Path, *, steps: tuple[int, ...] = (100, 500, 1000), final: bool = True) -> Path:
    """HF Trainer, TRL, axolotl, LLaMA-Factory, unsloth, ms-swift: `checkpoint-N` below the output."""
    if final:
        write_adapter(root, seed=77)
    for step in steps:
        resume_files(write_adapter(root / f"checkpoint-{step}", seed=step))
    return root


def trl_run(root: Path, *, final: bool = True) -> Path:
    """TRL from an adapter: below each save `ref`, a copy of the adapter that training began with."""
    hf_run(root, steps=(100, 200), final=final)
    for place in (*([root] if final else []), root / "checkpoint-100", root / "checkpoint-200"):
        write_adapter(place / "ref", seed=5)
    return root


def epochs_run(root: Path, names: tuple[str, ...], *, evidence: str = "") -> Path:
    """diffusion-pipe, torchtune, accelerate: folders by epoch or step, and no final one."""
    for number, name in enumerate(names):
        write_adapter(root / name, seed=number)
    if evidence:
        (root / evidence).write_bytes(b"x")
    return root


def diffusers_run(root: Path) -> Path:
    """Diffusers' scripts; the final folder alone has a model card."""
    write_diffusers(root / DIFFUSERS_FILE, seed=1)
    (root / "README.md").write_text("---\nbase_model: runwayml/sd\n---\n")
    for step in (500, 1000):
        write_diffusers(root / f"checkpoint-{step}" / DIFFUSERS_FILE, seed=step)
        torch.save({}, root / f"checkpoint-{step}" / "optimizer.bin")
    return root


def files_run(
    root: Path, names: tuple[str, ...], metadata: Mapping[str, Mapping[str, str]] | None = None
) -> Path:
    """kohya, musubi-tuner, ai-toolkit, OneTrainer: one file per save."""
    for number, name in enumerate(names):
        said = (metadata or {}).get(name, {})
        write_kohya(root / f"{name}.safetensors", seed=number, metadata=said)
    return root


def mlx_run(root: Path, numbers: tuple[int, ...] = (100, 200)) -> Path:
    """mlx-lm: numbered files beside the final one, with one configuration."""
    root.mkdir(parents=True)
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 2.0}}
    (root / "adapter_config.json").write_text(json.dumps(config))
    for number in (*numbers, None):
        generator = torch.Generator().manual_seed(number or 0)
        tensors = {
            "model.layers.0.q_proj.lora_a": torch.randn(8, 2, generator=generator),
            "model.layers.0.q_proj.lora_b": torch.randn(2, 6, generator=generator),
        }
        name = "adapters" if number is None else f"{number:07d}_adapters"
        save_file(tensors, root / f"{name}.safetensors")
    return root


def copy_of(source: Path, target: Path) -> Path:
    """The same adapter elsewhere."""
    shutil.copytree(source, target)
    return target
