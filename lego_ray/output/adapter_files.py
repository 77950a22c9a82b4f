"""Turns solved sites into the files of one adapter, in the layout its sources came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lego_ray.formats import diffusers_writer, kohya, kohya_writer, peft_writer
from lego_ray.formats.decode import as_stored
from lego_ray.formats.merged import MergedSite
from lego_ray.planning.loading import agreed, peft_carried_of
from lego_ray.planning.plan import Plan
from lego_ray.tasks.values import SiteResult


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
    merged = [
        MergedSite(
            site=result.plan.site,
            kind=result.plan.kind,
            a=_tensor(result.a),
            b=_tensor(result.b),
            a_shape_tail=result.plan.a_tail if result.plan.kind == "conv" else (),
            b_ndim=result.plan.b_dims,
        )
        for result in sites
    ]
    common: dict[str, Any] = {
        "rank": plan.rank,
        "dtype": plan.dtype,
        "base_model": plan.base_model,
        "compact": plan.recipe.compact,
    }
    if plan.format == "kohya":
        carried = _agreed(plan, kohya.CARRIED_FIELDS)
        return {plan.weights_name: kohya_writer.encode(merged, **common, carried=carried)}
    if plan.format == "diffusers":
        return {plan.weights_name: diffusers_writer.encode(merged, **common)}
    spans = {span.name: span for adapter in plan.adapters for span in adapter.full_weights}
    peft = peft_carried_of(plan.adapters, [site.site for site in merged])
    return peft_writer.encode(
        merged,
        **common,
        task_type=peft.task_type,
        fan_in_fan_out=bool(agreed(plan.adapters, "fan_in_fan_out")),
        full_weights={
            peft.keys[name]: as_stored(spans[name], raw) for name, raw in full_weights.items()
        },
        modules_to_save=peft.modules_to_save,
        bias=peft.bias,
    )


def carried_of(plan: Plan) -> dict[str, Any]:
    """What a merged adapter takes over of its sources' configurations; None where they differ."""
    return _agreed(plan, ("task_type", "fan_in_fan_out", *kohya.CARRIED_FIELDS))


def _tensor(values: NDArray[np.float32]) -> Tensor:
    """A copy: arrays that come from Ray's object store are shared memory and cannot be written."""
    return torch.from_numpy(values.copy())


def _agreed(plan: Plan, fields: Sequence[str]) -> dict[str, Any]:
    return {field: agreed(plan.adapters, field) for field in fields}
