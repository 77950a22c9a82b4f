"""The script people write today: safetensors and scikit-learn, one process, one site after another.

The peer of the speed benchmark. It does the same arithmetic as `lego-ray merge` at its defaults:
`python -m jobs.benchmarks.script_merge ZOO OUTPUT RANK N_INIT` writes the merged tensors and prints
the inertia.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.cluster import KMeans


def main(zoo: str, output: str, rank: int, n_init: int) -> None:
    """Merges a zoo; prints `{"inertia": ...}`."""
    folders = sorted(p.parent for p in Path(zoo).glob("*/adapter_config.json"))
    files: list[Any] = [safe_open(f / "adapter_model.safetensors", "pt") for f in folders]
    configs = [json.loads((f / "adapter_config.json").read_text()) for f in folders]
    names = [k.removesuffix(".lora_A.weight") for k in files[0].keys() if ".lora_A." in k]  # noqa: SIM118
    merged, inertia = {}, 0.0
    for name in names:
        rows = []
        for file, config in zip(files, configs, strict=True):
            root = math.sqrt(config["lora_alpha"] / config["r"])
            a = file.get_tensor(f"{name}.lora_A.weight").float()
            b = file.get_tensor(f"{name}.lora_B.weight").float()
            rows.append(root * torch.cat([a, b.T], dim=1))
        pool = torch.cat(rows).numpy()
        found = KMeans(rank, n_init=n_init, random_state=0).fit(pool)
        inertia += float(found.inertia_)
        centroids = found.cluster_centers_
        peaks = np.abs(pool).max(axis=1)
        for c in range(rank):
            centroids[c] *= peaks[found.labels_ == c].mean() / np.abs(centroids[c]).max()
        source_rank = len(pool) / len(folders)
        centroids *= (source_rank / rank) ** 0.25
        d_in = a.shape[1]
        both = torch.from_numpy(centroids)
        merged[f"{name}.lora_A.weight"] = both[:, :d_in].bfloat16().contiguous()
        merged[f"{name}.lora_B.weight"] = both[:, d_in:].T.bfloat16().contiguous()
    Path(output).mkdir(parents=True)
    save_file(merged, Path(output) / "adapter_model.safetensors", metadata={"format": "pt"})
    print(json.dumps({"inertia": inertia}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
