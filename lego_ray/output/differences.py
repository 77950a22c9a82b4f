"""The differences of weights, biases and norms that a merge writes, by their sums over its adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from lego_ray.formats.decode import DTYPES
from lego_ray.formats.differences import Difference, differences_of
from lego_ray.formats.fused import part_named
from lego_ray.formats.merged import stored_as
from lego_ray.lazy import Tensor
from lego_ray.methods.names import ADAPTIVE
from lego_ray.methods.scaling import SMALLEST, SOURCE_NORM, SUM_FIT, parts
from lego_ray.methods.spectrum import effective_count
from lego_ray.planning.plan import Plan
from lego_ray.planning.scales import site_scales_of
from lego_ray.tasks.added import Added


def merged_differences(plan: Plan, packed: Mapping[str, bytes]) -> dict[str, Tensor]:
    """The differences of a merge as they are stored, by common key.

    With `d_t` the differences of the n adapters that have one, times their weights, it is
    `sum_t d_t`, or for the average `sum_t d_t / n`; then scaled like a merged update: by the number or
    the rule of `--output-scale` (see `methods.scaling.scaled`; `adaptive` takes all d_t as of one norm)
    and by the module's `--site-scale`. Those kept of one adapter are as in its file.

    Args:
        plan: The plan.
        packed: Sums by common key, as `Added.packed` gives them; other keys are passed over.

    Raises:
        InvalidOption: If the element type to store cannot hold a value.
    """
    found = differences_of(plan.adapters)
    modules = [same[0].module for same in found.values()]
    scales = site_scales_of(modules, plan.recipe.site_scales, complete=False)
    out: dict[str, Tensor] = {}
    wholes: dict[str, list[tuple[Difference, Tensor]]] = {}
    for key, same in found.items():
        if key not in packed:
            continue
        added = Added.unpacked(packed[key], same[0].shape)
        if plan.recipe.full_weights.startswith("keep"):
            dtype = same[0].span.dtype
            merged = stored_as(added.total, dtype if dtype in DTYPES else plan.dtype, key)
        else:
            mean = added.total / (len(same) if plan.recipe.full_weights == "average" else 1)
            factor = _factor(mean, added, len(same), plan.recipe.output_scale)
            merged = stored_as(mean * (factor * scales.get(same[0].module, 1.0)), plan.dtype, key)
        if part := part_named(same[0].module):
            whole = replace(same[0], module=part.whole).key
            wholes.setdefault(whole, []).append((same[0], merged))
        else:
            out[key] = merged
    return {**out, **{key: _put_together(mine) for key, mine in wholes.items()}}


def _put_together(parts_of: list[tuple[Difference, Tensor]]) -> Tensor:
    """The difference of a whole module of those of its parts; zero in rows of parts that have none."""
    places = [(part_named(each.module), merged) for each, merged in parts_of]
    first = next(part for part, _ in places if part is not None)
    whole = places[0][1].new_zeros((first.height, *places[0][1].shape[1:]))
    for part, merged in places:
        if part is not None:
            whole[part.start : part.end] = merged
    return whole


def _factor(merged: Tensor, added: Added, count: int, output_scale: str | float) -> float:
    """The factor of an output scale on a difference that `count` adapters have."""
    rule, factor, cap = parts(output_scale)
    squared = float(merged.square().sum())
    if rule in (SOURCE_NORM, ADAPTIVE) and squared > SMALLEST**2 * added.squares:
        factor *= math.sqrt(added.squares / count / squared)
        if rule == ADAPTIVE:
            # As if all were of one norm: their squares alone are added up.
            alike = [added.squares / count] * count
            total = float(added.total.square().sum())
            factor *= min(math.sqrt(effective_count(alike, total)), cap)
    elif rule == SUM_FIT and squared > 0:
        factor *= float((merged * added.total).sum()) / squared
    return factor
