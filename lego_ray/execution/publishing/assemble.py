"""Turns solved sites into the files of one adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lego_ray.execution.task import SiteResult
from lego_ray.formats.decode import as_stored
from lego_ray.formats.peft_writer import MergedSite, encode
from lego_ray.planning.plan import Plan


def adapter_files(
    plan: Plan, sites: Sequence[SiteResult], full_weights: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Encodes a merged adapter, to the same bytes for the same sites.

    Args:
        plan: What was run.
        sites: Every site of the plan, solved.
        full_weights: Raw bytes of tensors passed through, by name.

    Returns:
        File name to bytes.
    """
    config = _shared_config(plan)
    spans = {span.name: span for adapter in plan.adapters for span in adapter.full_weights}
    return encode(
        [
            MergedSite(
                site=result.plan.site,
                kind=result.plan.kind,
                a=_tensor(result.a),
                b=_tensor(result.b),
                a_shape_tail=result.plan.a_tail if result.plan.kind == "conv" else (),
                b_ndim=result.plan.b_dims,
            )
            for result in sites
        ],
        rank=plan.rank,
        dtype=plan.dtype,
        base_model=plan.base_model,
        task_type=config["task_type"],
        fan_in_fan_out=bool(config["fan_in_fan_out"]),
        compact=plan.recipe.compact,
        full_weights={name: as_stored(spans[name], raw) for name, raw in full_weights.items()},
        modules_to_save=config["modules_to_save"],
        bias=config["bias"] or "none",
    )


def _tensor(values: NDArray[np.float32]) -> Tensor:
    """A copy: arrays that come from Ray's object store are shared memory and cannot be written."""
    return torch.from_numpy(values.copy())


def _shared_config(plan: Plan) -> dict[str, Any]:
    """Configuration the merged adapter takes over: a value all agree on, or that of its keeper."""
    shared: dict[str, Any] = {}
    for key in ("task_type", "fan_in_fan_out"):
        values = {a.config.get(key) for a in plan.adapters}
        shared[key] = values.pop() if len(values) == 1 else None
    keeper = next((a for a in plan.adapters if a.full_weights), None)
    for key in ("modules_to_save", "bias"):
        shared[key] = keeper.config.get(key) if keeper else None
    return shared
