"""The memory of a bake does not grow with the base model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.zoo import Site, write_adapter

# A tensor is 4 MiB, the small model 32 MiB, the large one 256 MiB.
ROWS, COLUMNS = 1024, 1024
MIB_EACH = 4
SMALL, LARGE = 8, 64
GROWTH = (LARGE - SMALL) * MIB_EACH
# Room for a few copies of one tensor and of a shard's tensors as BF16, and less than what the model grew
# by, as F32 or as BF16: a bake that held all of it would be above.
BOUND = 64
PER_SHARD = 16
# The peak of the process itself: Linux counts what a parent had before `exec` to a child's `ru_maxrss`.
BAKE = """
import resource, sys
from pathlib import Path
from lego_ray.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    assert not error.code, error.code
status = Path("/proc/self/status")
if status.exists():
    [line] = [each for each in status.read_text().splitlines() if each.startswith("VmHWM:")]
    peak = int(line.split()[1]) / 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"peak {peak}")
"""


def base_of(root: Path, layers: int, shards: int) -> tuple[Path, Path]:
    """A model of that many layers in that many files, and an adapter on each layer."""
    base = root / "base"
    base.mkdir(parents=True)
    names = [f"model.layers.{n}.self_attn.q_proj" for n in range(layers)]
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        mine = names[shard * layers // shards : (shard + 1) * layers // shards]
        many = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        file = "model.safetensors" if shards == 1 else many
        weights = {f"{name}.weight": torch.full((ROWS, COLUMNS), 0.5) for name in mine}
        save_file(weights, base / file, {"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "config.json").write_text('{"model_type": "llama"}')
    sites = tuple(Site(name, (COLUMNS,), ROWS) for name in names)
    return base, write_adapter(root / "adapter", sites=sites, rank=1)


def peak_of(root: Path, layers: int, shards: int, *more: str) -> float:
    """MiB that a process takes at most to bake an adapter into a model of that many layers."""
    base, adapter = base_of(root, layers, shards)
    words = ["bake", str(adapter), "--base", str(base), "--output", str(root / "out"), *more]
    done = subprocess.run([sys.executable, "-c", BAKE, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [file for file in (root / "out").iterdir() if file.suffix == ".safetensors"]
    assert sum(f.stat().st_size for f in files) > layers * MIB_EACH * 2**20 / (2 if more else 1)
    (root / "out" / "config.json").stat()  # so it is whole
    return float(done.stdout.rpartition("peak ")[2])


@pytest.mark.parametrize(("is_sharded", "dtype"), [(False, "base"), (True, "BF16")])
def test_the_peak_does_not_grow_with_the_base_model(
    is_sharded: bool, dtype: str, tmp_path: Path
) -> None:
    more = () if dtype == "base" else ("--dtype", dtype)
    small, large = (
        peak_of(tmp_path / name, layers, layers // PER_SHARD or 1 if is_sharded else 1, *more)
        for name, layers in (("small", SMALL), ("large", LARGE))
    )
    assert large - small < BOUND < GROWTH / 2
