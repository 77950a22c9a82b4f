"""Whole merges with a GPU against the same with the CPU: lineage, files and time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import lego_ray
from jobs.benchmarks.gpu_checks import ROUNDING, Check, close, rounded
from jobs.benchmarks.whole_merge import whole_merge

QUERY = "SELECT * EXCLUDE (merge_id) FROM msus ORDER BY site, adapter_id, rank_index"


@dataclass(frozen=True, slots=True)
class Merged:
    """A whole `lego-ray merge`, and what it left.

    Attributes:
        output: Its folder.
        lineage: Its rows of `msus`, in order.
        inertia: Sum over its sites.
        seconds: Wall time of the process, start-up included.
    """

    output: Path
    lineage: Any
    inertia: float
    seconds: float


def merge(zoo: Path, folder: Path, rank: int, **flags: object) -> Merged:
    """Merges a zoo by the command line, with a catalog.

    Args:
        zoo: The zoo.
        folder: Where output and catalog go.
        rank: Of the merge.
        **flags: More flags.
    """
    output, catalog = folder / "merged", folder / "catalog"
    measured = whole_merge(zoo, output, catalog=catalog, rank=rank, **flags)
    total = lego_ray.catalog.sql(catalog, "SELECT sum(inertia) AS total FROM merge_sites")
    lineage = lego_ray.catalog.sql(catalog, QUERY)
    return Merged(output, lineage, float(total["total"][0].as_py()), measured.seconds)


def compare_merges(name: str, wanted: Merged, found: Merged) -> list[Check]:
    """Compares a merge with a device with that of the CPU.

    Args:
        name: Of the zoo and the runner.
        wanted: The CPU's.
        found: The device's.
    """
    ours, theirs = wanted.lineage, found.lineage
    exact = [each for each in ours.column_names if each != "distance"]
    same = [ours[each].equals(theirs[each]) for each in exact]
    differ = [each for each, equal in zip(exact, same, strict=True) if not equal]
    distances = rounded(_distances(ours), _distances(theirs), ROUNDING)
    return [
        Check(
            f"{name}: lineage",
            not differ and distances.passed and close(wanted.inertia, found.inertia),
            f"columns {', '.join(differ)} differ" if differ else f"distances {distances.found}",
        ),
        replace(_files(wanted.output, found.output), what=f"{name}: merged adapter"),
    ]


def _distances(lineage: Any) -> Tensor:
    return torch.tensor(lineage["distance"].to_pylist(), dtype=torch.float64)


def _files(wanted: Path, found: Path) -> Check:
    paths = [each / "adapter_model.safetensors" for each in (wanted, found)]
    if paths[0].read_bytes() == paths[1].read_bytes():
        return Check("", True, "the same bytes")
    ours, theirs = (load_file(path) for path in paths)
    if ours.keys() != theirs.keys():
        return Check("", False, "other tensors")
    for key, tensor in ours.items():
        share = max(ROUNDING, torch.finfo(tensor.dtype).eps)
        if not (each := rounded(tensor, theirs[key], share)).passed:
            return Check("", False, f"{key}: {each.found}")
    return Check("", True, "other bytes, within rounding")
