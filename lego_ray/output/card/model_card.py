"""The README.md of a merged adapter: what it is, where it came from, how to load and check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from lego_ray.formats.hub_tags import TRIGGER_WORDS
from lego_ray.formats.record import AdapterRecord
from lego_ray.output.card.figures import SiteFigures, figures_of
from lego_ray.output.card.front_matter import front_matter
from lego_ray.output.card.markdown import code, link
from lego_ray.planning.licenses import UNKNOWN
from lego_ray.planning.plan import Plan
from lego_ray.sources.recorded import place_of

# A card lists this many sources; the manifest has them all.
LISTED = 200
TAGS = ("lora", "merge", "lego-ray")


def model_card(plan: Plan, sites: Sequence[SiteFigures], versions: Mapping[str, str]) -> bytes:
    """Writes a model card with provenance, the same for the same merge by the same software.

    Names of adapters, sites and models may hold anything, and mean nothing as markup.

    Args:
        plan: The plan that was run.
        sites: Figures of its sites, in any order.
        versions: Versions of the software that ran it, by package.
    """
    text = _TEMPLATE.render(
        front_matter=front_matter(plan.base_model, _licenses(plan), TAGS, plan.layout.library),
        plan=plan,
        recipe=plan.recipe,
        rank=_merged_ranks(plan),
        software=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        sources=list(zip(plan.adapters, plan.weights, strict=True)),
        triggers=[(a, a.tags[TRIGGER_WORDS]) for a in plan.adapters if TRIGGER_WORDS in a.tags],
        figures=figures_of(sites),
        without_paths=partial(_without_paths, plan),
        listed=LISTED,
    )
    return text.encode()


def _licenses(plan: Plan) -> list[str]:
    """The sources' licenses, all of them, so that a merge of this one knows them too."""
    return [] if plan.licenses == (UNKNOWN,) else list(plan.licenses)


def _merged_ranks(plan: Plan) -> str:
    """The merged rank, and how it was chosen if it was."""
    recipe = plan.recipe
    ranks = _span(tuple(site.rank for task in plan.tasks for site in task.sites))
    if recipe.parent:  # chosen for an earlier version
        return ranks
    if recipe.rank_budget is not None:
        return f"{ranks} (as many parameters as rank {recipe.rank_budget} has everywhere)"
    if recipe.rank_error is not None:
        near = f"the nearest adapter is within {recipe.rank_error:g} of the sum"
        return f"{ranks} (the smallest at which {near})"
    return ranks


def _place(adapter: AdapterRecord) -> str:
    """Where an adapter is; a link to the very commit if that is on the Hub; its name on a disk."""
    if "://" not in adapter.uri:
        return code(_name(adapter.uri))
    page = place_of(adapter).page(adapter.revision)
    return link(*page) if page else code(adapter.uri)


def _name(uri: str) -> str:
    """The last part of a local path, which is of use to no reader of the card; another URI as it is."""
    return uri if "://" in uri else uri.rstrip("/").rpartition("/")[2]


def _without_paths(plan: Plan, text: str) -> str:
    """A sentence with the names of local adapters instead of their paths."""
    uris = [*(a.uri for a in plan.adapters), *(r.uri for r in plan.refused)]
    places = {uri for uri in uris if "://" not in uri}
    above = {uri.rpartition("/")[0] + "/" for uri in places} - {"/"}
    for uri in sorted(places, key=len, reverse=True):
        text = text.replace(uri, _name(uri))
    for folder in sorted(above, key=len, reverse=True):
        text = text.replace(folder, "")
    return text


def _span(ranks: tuple[int, ...]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}-{high}"


def _template() -> Template:
    """The card's template. It escapes nothing by itself: `code` is for all that others wrote."""
    environment = Environment(
        loader=PackageLoader("lego_ray.output.card", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "name": _name, "place": _place, "span": _span}
    return environment.get_template("model_card.md.jinja")


_TEMPLATE = _template()
