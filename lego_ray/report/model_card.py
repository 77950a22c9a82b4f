"""The README.md of a merged adapter: what it is, where it came from, how to load it."""

from __future__ import annotations

import json

from lego_ray.planning.licences import UNKNOWN
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe

# A card lists this many sources; the manifest has them all.
LISTED = 200


def model_card(plan: Plan) -> bytes:
    """A model card with provenance, the same for the same plan.

    Args:
        plan: The plan that was run.
    """
    recipe = plan.recipe
    licences = plan.licences
    front = ["---", "library_name: peft", "tags:", "- lora", "- merge", "- lego-ray"]
    if plan.base_model:
        front.insert(1, f"base_model: {json.dumps(plan.base_model)}")
    if licences != (UNKNOWN,):
        # A list where there are several, so that a merge of this one knows them all.
        front.append(f"license: {json.dumps(licences[0] if len(licences) == 1 else licences)}")
    asked = [*sorted(recipe.options.items()), *_scales(recipe)]
    options = "\n".join(f"| {k} | {v} |" for k, v in asked if v is not None)
    rows = "\n".join(
        f"| {_cell(a.uri)} | `{a.adapter_id[:12]}` | {_ranks(a.ranks)} | {weight} "
        f"| {_cell(a.license) or '-'} |"
        for a, weight in zip(plan.adapters[:LISTED], plan.weights, strict=False)
    )
    more = len(plan.adapters) - LISTED
    rest = f"\n... and {more} more, in `lego_ray_manifest.json`.\n" if more > 0 else ""
    refused = "".join(f"- {_cell(r.uri)}: {_cell(r.reason)}\n" for r in plan.refused[:LISTED])
    text = f"""{chr(10).join([*front, "---"])}

# {recipe.name}

A LoRA adapter of rank {_merged_ranks(plan)}, merged from {len(plan.adapters)} adapters by lego-ray
(method `{recipe.method}`, {plan.n_sites} sites, {plan.n_msus} minimal semantic units).

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/directory")
```

| | |
|---|---|
| base model | {_cell(plan.base_model) or "-"} |
| plan | `{plan.digest}` |
| seed | {recipe.seed} |
{options}

## Sources

| adapter | id | rank | weight | licence |
|---|---|---|---|---|
{rows}
{rest}
"""
    if plan.licence_conflicts:
        text += "## Licences\n\nTo check before this adapter is passed on; no legal advice.\n\n"
        text += "".join(f"- {_cell(point)}\n" for point in plan.licence_conflicts) + "\n"
    if refused:
        text += f"## Left out\n\n{refused}"
    return text.rstrip().encode() + b"\n"


def _scales(recipe: Recipe) -> list[tuple[str, object]]:
    """The scales that were asked for, if any."""
    found: list[tuple[str, object]] = []
    if recipe.output_scale != 1:
        found.append(("output scale", recipe.output_scale))
    found += [(f"scale of {_cell(name)}", c) for name, c in sorted(recipe.site_scales.items())]
    return found


def _merged_ranks(plan: Plan) -> str:
    """The merged rank, and how it was chosen if it was."""
    recipe = plan.recipe
    ranks = _ranks(tuple(site.rank for group in plan.groups for site in group.sites))
    if recipe.rank_budget is not None:
        return f"{ranks} (as many parameters as rank {recipe.rank_budget} has everywhere)"
    if recipe.rank_error is not None:
        near = f"the nearest adapter is within {recipe.rank_error:g} of the sum"
        return f"{ranks} (the smallest at which {near})"
    return ranks


def _ranks(ranks: tuple[int, ...]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}-{high}"


def _cell(text: str) -> str:
    """Text that cannot break out of a table cell or a list item."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
