"""A scorer whose best is known: minus the distance of the merged update to a hidden target.

The target is a sum of the adapters' updates with hidden weights, so a merge with those weights, the
singular values as they are and room for all ranks reaches 0, and nothing is above. Uses nothing of
lego_ray.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Updates = dict[str, NDArray[np.float64]]
# Where the adapters are, and their hidden weights: a JSON object with `zoo` and `weights`.
VARIABLE = "TARGET_OF_A_TEST"
# A file that gets a line for each call; none if it is not set.
CALLS = "CALLS_OF_A_TEST"
# The call at which the process that tunes is killed.
KILL_AT = "KILL_AT_OF_A_TEST"


def updates(folder: Path) -> Updates:
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, a in tensors.items():
        if ".lora_A." in key:
            b = tensors[key.replace("lora_A", "lora_B")]
            scale = config["lora_alpha"] / config["r"]
            site = key.removeprefix("base_model.model.").partition(".lora_A")[0]
            found[site] = scale * b.astype(np.float64) @ a.astype(np.float64)
    return found


def target() -> Updates:
    told = json.loads(os.environ[VARIABLE])
    total: Updates = {}
    for name, weight in told["weights"].items():
        for site, update in updates(Path(told["zoo"]) / name).items():
            total[site] = total.get(site, 0.0) + weight * update
    return total


def score(adapter: str, split: str = "all") -> dict[str, Any]:
    """Sites of layer 0 choose, those of layer 1 report; a task is a kind of module."""
    if CALLS in os.environ:
        with Path(os.environ[CALLS]).open("a") as calls:
            calls.write(f"{split} {adapter}\n")
        if str(len(Path(os.environ[CALLS]).read_text().splitlines())) == os.environ.get(KILL_AT):
            os.kill(os.getppid(), signal.SIGKILL)
    merged, wanted = updates(Path(adapter)), target()
    prefix = {"choose": "layers.0.", "report": "layers.1.", "all": ""}[split]
    tasks = {}
    rows = {}
    for site in sorted(wanted):
        if site.startswith(prefix):
            apart = np.linalg.norm(merged[site] - wanted[site], axis=1)
            whole = np.linalg.norm(wanted[site])
            name = site.rpartition(".")[2]
            rows[name] = [-float(each) / whole for each in apart]
            tasks[name] = -float(np.linalg.norm(apart)) / whole
    return {"score": sum(tasks.values()) / len(tasks), "tasks": tasks, "rows": rows}


def failing(adapter: str, split: str = "all") -> dict[str, Any]:
    """Fails for every second adapter."""
    found = score(adapter, split)
    if len(Path(os.environ[CALLS]).read_text().splitlines()) % 2:
        raise ValueError("this one is not scored")
    return found


def never(adapter: str) -> float:
    """Fails for each adapter, until a file exists."""
    if not Path(os.environ[CALLS]).exists():
        raise ValueError("no adapter is good enough")
    return 1.0
