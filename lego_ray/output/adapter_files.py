"""Turns solved sites into the files of one adapter, in the layout its sources came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lego_ray.formats import kohya
from lego_ray.formats.base_model import shared_revision
from lego_ray.formats.fused import put_together
from lego_ray.formats.merged import MergedSite
from lego_ray.formats.output_layout import Asked, agreed
from lego_ray.lazy import Tensor, torch
from lego_ray.output.differences import merged_differences
from lego_ray.planning.plan import Plan
from lego_ray.tasks.values import SiteResult


def adapter_files(
    plan: Plan, sites: Sequence[SiteResult], full_weights: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Encodes a merged adapter, to the same bytes for the same sites.

    Args:
        plan: What was run.
        sites: Every site of the plan, solved.
        full_weights: Raw bytes of tensors passed through, by name, and sums of differences, by common
            key.

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
    asked = Asked(
        name=plan.recipe.name,
        base_model=plan.base_model,
        adapters=plan.adapters,
        rank=plan.rank,
        dtype=plan.dtype,
        compact=plan.recipe.compact,
        differences=merged_differences(plan, full_weights),
    )
    passed = {span.name for adapter in plan.adapters for span in adapter.full_weights}
    kept = {name: raw for name, raw in full_weights.items() if name in passed}
    return plan.layout.files(put_together(merged), asked, kept)


def carried_of(plan: Plan) -> dict[str, Any]:
    """What a merged adapter takes over of its sources' configurations; None where they differ."""
    fields = ("task_type", "fan_in_fan_out", *kohya.CARRIED_FIELDS)
    carried = {field: agreed(plan.adapters, field) for field in fields}
    if name := agreed(plan.adapters, "adapter"):  # in the keys of all, where readers look for it
        carried["adapter"] = name
    return {**carried, **shared_revision(plan.adapters, plan.base_model)}


def _tensor(values: NDArray[np.float32]) -> Tensor:
    """A copy: arrays that come from Ray's object store are shared memory and cannot be written."""
    return torch.from_numpy(values.copy())
