"""How each tool is asked for a merge: a shell command, as the documentation of the tool shows it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: As the table has it.
        spelling: Which of the zoo's spellings it reads: `peft`, `llama` or `kohya`.
        command: Makes the shell command from the ask (`sum`: the exact sum; `nearest`: an adapter of
            that rank near the sum; `ties`: TIES), the sources, the output and the rank. None where the
            tool does not have the method.
    """

    name: str
    spelling: str
    command: Callable[[str, list[str], Path, int], str | None]


def lego_ray(sources: list[str], ask: str, output: Path, rank: int) -> str:
    """`lego-ray merge` in one process."""
    methods = {"sum": "concat", "nearest": "svd", "ties": "ties"}
    words = [sys.executable, "-m", "lego_ray", "merge", *sources, "--method", methods[ask]]
    words += ["--rank", str(rank), "--output", str(output), "--runner", "inline", "--json"]
    return shlex.join(words)


def tools(
    folder: Path, mergekit: Path | None, kohya: Path | None, python: Path | None
) -> list[Tool]:
    """The tools that are there.

    Args:
        folder: Where the base models are.
        mergekit: The `bin` folder of the virtual environment that mergekit is installed in.
        kohya: A checkout of kohya-ss/sd-scripts.
        python: The interpreter that has what the scripts of that checkout import.
    """
    found = [
        Tool("lego-ray", "peft", lambda ask, s, out, k: lego_ray(s, ask, out, k)),
        Tool("PEFT", "peft", lambda ask, s, out, k: _peft(folder, ask, s, out, k)),
    ]
    if mergekit:
        found.append(
            Tool(
                "mergekit",
                "llama",
                lambda ask, s, out, k: _mergekit(folder, mergekit, ask, s, out, k),
            )
        )
    if kohya and python:
        found.append(
            Tool("kohya", "kohya", lambda ask, s, out, k: _kohya(kohya, python, ask, s, out, k))
        )
    return found


def _peft(folder: Path, ask: str, sources: list[str], output: Path, rank: int) -> str:
    kind = {"sum": "cat", "nearest": "svd", "ties": "ties"}[ask]
    script = [sys.executable, "-m", "jobs.benchmarks.peers.with_peft", str(folder / "bert")]
    return shlex.join([*script, str(output), kind, str(rank), *sources])


def _mergekit(
    folder: Path, bin_folder: Path, ask: str, sources: list[str], output: Path, rank: int
) -> str:
    """Each adapter merged into the base, these models into one, and an adapter extracted from that."""
    base = folder / "llama"
    method = "ties" if ask == "ties" else "task_arithmetic"
    lines = [f"merge_method: {method}", f"base_model: {base}", "dtype: float32", "parameters:"]
    lines += ["  normalize: false", "models:"]
    for source in sources:
        lines += [f"  - model: {base}+{source}", "    parameters: {weight: 1.0"]
        lines[-1] += ", density: 0.2}" if ask == "ties" else "}"
    output.parent.mkdir(parents=True, exist_ok=True)
    config = output.parent / f"{output.name}.yaml"
    config.write_text("\n".join(lines) + "\n")
    model = output.parent / f"{output.name}-model"
    cache = output.parent / f"{Path(sources[0]).parent.name}-cache"  # its own way to do a zoo once
    merge = [str(bin_folder / "mergekit-yaml"), str(config), str(model)]
    extract = [str(bin_folder / "mergekit-extract-lora"), "--model", str(model)]
    extract += ["--base-model", str(base), "--out-path", str(output), "--max-rank", str(rank)]
    return f"{shlex.join([*merge, '--lora-merge-cache', str(cache)])} && {shlex.join(extract)}"


def _kohya(
    checkout: Path, python: Path, ask: str, sources: list[str], output: Path, rank: int
) -> str | None:
    if ask == "ties":
        return None
    script = "merge_lora.py" if ask == "sum" else "svd_merge_lora.py"
    words = ["env", f"PYTHONPATH={checkout}", str(python), str(checkout / "networks" / script)]
    words += ["--save_to", str(output.with_suffix(".safetensors")), "--models", *sources]
    words += ["--ratios", *["1.0"] * len(sources)]
    words += ["--concat"] if ask == "sum" else ["--new_rank", str(rank)]
    return shlex.join(words)
