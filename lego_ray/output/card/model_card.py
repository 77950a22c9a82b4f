"""The README.md of a merged adapter: what it is, where it came from, how to load and check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lego_ray.formats.record import AdapterRecord
from lego_ray.output.card.figures import SiteFigures, figures_table
from lego_ray.output.card.front_matter import front_matter
from lego_ray.output.card.markdown import code, link
from lego_ray.planning.licenses import UNKNOWN
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe
from lego_ray.sources.recorded import place_of

# A card lists this many sources; the manifest has them all.
LISTED = 200
TAGS = ("lora", "merge", "lego-ray")


def model_card(plan: Plan, sites: Sequence[SiteFigures], versions: Mapping[str, str]) -> bytes:
    """A model card with provenance, the same for the same merge by the same software.

    Names of adapters, sites and models may hold anything, and mean nothing as markup.

    Args:
        plan: The plan that was run.
        sites: Figures of its sites, in any order.
        versions: Versions of the software that ran it, by package.
    """
    recipe = plan.recipe
    lines = [
        front_matter(plan.base_model, _licenses(plan), TAGS, plan.layout.library),
        "",
        f"# {code(recipe.name)}",
        "",
        f"A LoRA adapter of rank {_merged_ranks(plan)}, merged from {len(plan.adapters)} adapters by "
        f"lego-ray: method {code(recipe.method)}, {plan.n_sites} sites, {plan.n_msus} minimal semantic "
        "units (MSUs).",
        "",
        "## Use",
        "",
        "```python",
        *plan.layout.usage(plan.weights_name),
        "```",
        "",
        "Whether it is what was published, and how far it is from its sources:",
        "",
        "```",
        "lego-ray verify THIS_PLACE --sources SOURCE...",
        "```",
        "",
        "## Made by",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _recipe_rows(plan, recipe)),
        f"| software | {code(', '.join(f'{k} {v}' for k, v in sorted(versions.items())))} |",
        "",
        "## Sources",
        "",
        "| adapter | id | rank | weight | license |",
        "|---|---|---|---|---|",
        *(
            f"| {_source(a)} | {code(a.adapter_id[:12])} | {_ranks(a.ranks)} | {weight:g} "
            f"| {code(a.license)} |"
            for a, weight in list(zip(plan.adapters, plan.weights, strict=True))[:LISTED]
        ),
        *_rest(len(plan.adapters)),
    ]
    if table := figures_table(sites):
        lines += ["", "## Figures", "", table]
    if plan.license_conflicts:
        lines += [
            "",
            "## Licenses",
            "",
            "To check before this adapter is passed on; no legal advice.",
        ]
        lines += ["", *(f"- {code(_without_paths(p, plan))}" for p in plan.license_conflicts)]
    if plan.limits:
        lines += [
            "",
            "## Limits",
            "",
            *(f"- {code(_without_paths(limit, plan))}" for limit in plan.limits),
        ]
    if plan.refused:
        lines += ["", "## Left out", ""]
        lines += [
            f"- {code(_name(r.uri))}: {code(_without_paths(r.reason, plan))}"
            for r in plan.refused[:LISTED]
        ]
        lines += _rest(len(plan.refused))
    return "\n".join([*lines, ""]).encode()


def _licenses(plan: Plan) -> list[str]:
    """The sources' licenses, all of them, so that a merge of this one knows them too."""
    return [] if plan.licenses == (UNKNOWN,) else list(plan.licenses)


def _recipe_rows(plan: Plan, recipe: Recipe) -> list[tuple[str, str]]:
    """What it was made by, as names and Markdown."""
    return [
        ("base model", code(plan.base_model)),
        ("plan", code(plan.digest)),
        ("method", code(recipe.method)),
        *((("update of", code(recipe.parent)),) if recipe.parent else ()),
        ("seed", str(recipe.seed)),
        ("element type", plan.dtype),
        *((k, code(str(v))) for k, v in sorted(recipe.options.items()) if v is not None),
        *_scales(recipe),
    ]


def _scales(recipe: Recipe) -> list[tuple[str, str]]:
    """The scales that were asked for, if any."""
    found: list[tuple[str, str]] = []
    if recipe.output_scale != 1:
        found.append(("output scale", str(recipe.output_scale)))
    sites = sorted(recipe.site_scales.items())
    return found + [(f"scale of {code(name)}", f"{c:g}") for name, c in sites]


def _merged_ranks(plan: Plan) -> str:
    """The merged rank, and how it was chosen if it was."""
    recipe = plan.recipe
    ranks = _ranks(tuple(site.rank for task in plan.tasks for site in task.sites))
    if recipe.parent:  # chosen for an earlier version
        return ranks
    if recipe.rank_budget is not None:
        return f"{ranks} (as many parameters as rank {recipe.rank_budget} has everywhere)"
    if recipe.rank_error is not None:
        near = f"the nearest adapter is within {recipe.rank_error:g} of the sum"
        return f"{ranks} (the smallest at which {near})"
    return ranks


def _source(adapter: AdapterRecord) -> str:
    """Where an adapter is; a link to the very commit if that is on the Hub; its name on a disk."""
    if "://" not in adapter.uri:
        return code(_name(adapter.uri))
    page = place_of(adapter).page(adapter.revision)
    return link(*page) if page else code(adapter.uri)


def _name(uri: str) -> str:
    """The last part of a local path, which is of use to no reader of the card; another URI as it is."""
    return uri if "://" in uri else uri.rstrip("/").rpartition("/")[2]


def _without_paths(text: str, plan: Plan) -> str:
    """A sentence with the names of local adapters instead of their paths."""
    uris = [*(a.uri for a in plan.adapters), *(r.uri for r in plan.refused)]
    places = {uri for uri in uris if "://" not in uri}
    above = {uri.rpartition("/")[0] + "/" for uri in places} - {"/"}
    for uri in sorted(places, key=len, reverse=True):
        text = text.replace(uri, _name(uri))
    for folder in sorted(above, key=len, reverse=True):
        text = text.replace(folder, "")
    return text


def _ranks(ranks: tuple[int, ...]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}-{high}"


def _rest(count: int) -> list[str]:
    more = count - LISTED
    return ["", f"... and {more} more, in `lego_ray_manifest.json`."] if more > 0 else []
