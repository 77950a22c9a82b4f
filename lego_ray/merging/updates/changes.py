"""Which adapters an update adds and removes: names to records, each checked against the merge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lego_ray.catalog.ids import ids_that_begin, listed
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import (
    BaseModelMismatch,
    InvalidOption,
    LayoutMismatch,
    ObjectNotFound,
    SiteShapeMismatch,
    UpdateImpossible,
    VerificationFailed,
)
from lego_ray.formats.base_model import REVISION, revision_of
from lego_ray.formats.identity import family
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.peft_parameters import parameter_of
from lego_ray.formats.record import AdapterRecord
from lego_ray.output.leaving import (
    PLACE,
    hash_of_place,
    is_placeless,
    places_of,
)
from lego_ray.output.running_sums import State
from lego_ray.planning.base_models import agreed_base_model
from lego_ray.planning.by_head import is_by_heads
from lego_ray.planning.inventory import SiteShape, agreed_format, check_shapes, shape_of
from lego_ray.planning.naming import named_as
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.trees import Names, check_one_tree, names_in
from lego_ray.planning.weights import by_places, means, nearest_adapter, weight_of
from lego_ray.sources.headers import scan_sources

ADD, REMOVE = "--add", "--remove"


def named_sources(
    sources: Sequence[Mapping[str, Any]], names: Sequence[str], merge: str
) -> list[Mapping[str, Any]]:
    """The sources of a merge that are to go.

    Args:
        sources: As its manifest lists them.
        names: Names or URIs as `--weight` takes them, or first digits of adapter_ids, six or more.
        merge: What to call the merge in errors.

    Raises:
        InvalidOption: If a name means no source, or several, or all sources would go.
    """
    going: list[Mapping[str, Any]] = []
    for name in names:
        found = [s for s in sources if s["uri"] == name] or [
            s for s in sources if means(name, s["uri"])
        ]
        if not found:
            fitting = ids_that_begin(name, (s["adapter_id"] for s in sources))
            found = [s for s in sources if s["adapter_id"] in fitting]
        if not found:
            hint = nearest_adapter(name, [s["uri"] for s in sources])
            raise InvalidOption(f"{REMOVE} {name}", f"it is not an adapter of {merge}", hint)
        if len(found) > 1:
            uris = listed((s["adapter_id"] for s in found[:5]), (s["uri"] for s in found[:5]))
            raise InvalidOption(
                f"{REMOVE} {name}",
                f"{len(found)} adapters of {merge} are called so: {uris}",
                "Give the URI of the one that is to go.",
            )
        going += [s for s in found if s not in going]
    if going and len(going) == len(sources):
        raise InvalidOption(
            REMOVE, f"no adapter would be left of {merge}", "Leave one in, or delete the merge."
        )
    return going


def place_of(source: Mapping[str, Any], catalog: Catalog | None) -> str:
    """Where a source of a merge is; a published copy's manifest has its name alone.

    Args:
        source: As the manifest lists it.
        catalog: Where adapters are recorded with their places, or None.

    Raises:
        UpdateImpossible: If its place is not known.
    """
    uri = str(source["uri"])
    if not is_placeless(uri):
        return uri
    if catalog is not None and catalog.exists("adapters"):
        rows = catalog.read("adapters", ["uri", "status", "adapter_id"]).to_pylist()
        found = [r["uri"] for r in rows if r["adapter_id"] == source["adapter_id"]]
        same = [each for each in found if hash_of_place(each) == source.get(PLACE)]
        if found:
            return str((same or sorted(found))[0])
    raise UpdateImpossible(
        uri,
        "the merge is a published copy, whose manifest has the name of this adapter and not its place",
        "Give the --catalog that the adapter is recorded in, or update the merge that was published.",
    )


def records_of(
    going: Sequence[Mapping[str, Any]], recipe: Recipe, catalog: Catalog | None = None
) -> tuple[list[AdapterRecord], int]:
    """Headers of the adapters that go, in their order, and the bytes it took to read them.

    Raises:
        ObjectNotFound: If one is not there.
        VerificationFailed: If one is not what was merged.
        StorageError: If one cannot be read.
    """
    records, bytes_read = [], 0
    for source in going:
        place = place_of(source, catalog)
        try:
            scan = scan_sources(
                [place], full_weights=recipe.full_weights, checkpoints="all", base=recipe.base
            )
        except ObjectNotFound as error:
            raise ObjectNotFound(
                place,
                "there is nothing there, and an adapter is taken out of a merge by its weights",
                "Put it back, or add --refit, which merges the others again.",
            ) from error
        bytes_read += scan.bytes_read
        mine = [a for a in scan.inventory.adapters if a.uri == place]
        # By its headers; that its weights are those that were merged is checked when they are read.
        if not mine or family(mine[0].adapter_id) != family(source["adapter_id"]):
            raise VerificationFailed(
                source["uri"],
                "it is not the adapter that was merged, which cannot be taken out without its weights",
                "Put that one back, or add --refit, which merges the others again.",
            )
        records.append(replace(mine[0], adapter_id=source["adapter_id"]))
    return records, bytes_read


def check_new(
    adapters: Sequence[AdapterRecord], sources: Sequence[Mapping[str, Any]], merge: str
) -> None:
    """Checks that adapters to add are not in the merge.

    Raises:
        InvalidOption: If one is, or another with its URI.
    """
    known = {s["adapter_id"]: s["uri"] for s in sources}
    places = places_of(sources)
    for adapter in adapters:
        if adapter.adapter_id in known:
            where = known[adapter.adapter_id]
            same = "" if where == adapter.uri else f", as {where}"
            raise InvalidOption(
                f"{ADD} {adapter.uri}", f"it is in {merge} already{same}", "Leave it out."
            )
        if hash_of_place(adapter.uri) in places:
            raise InvalidOption(
                f"{ADD} {adapter.uri}",
                f"it was changed since {merge} was made of it, and what it was cannot be taken out",
                "Merge what is there now with --refit, or put the new one in a separate folder.",
            )


def with_names_of(
    adapters: Sequence[AdapterRecord], state: State, layout: str
) -> tuple[AdapterRecord, ...]:
    """The adapters, with the names that the merge has for modules it knows.

    Args:
        adapters: To add or to remove.
        state: The merge's sums.
        layout: What it is written in.
    """
    known = {s.plan.site: (s.plan.d_in, s.plan.d_out) for s in state.sites}
    return named_as(adapters, known, layout, by_heads=is_by_heads(state.carried))


def check_fits(
    adapters: Sequence[AdapterRecord], manifest: Mapping[str, Any], state: State, recipe: Recipe
) -> None:
    """Checks that adapters to add go with those merged.

    Raises:
        LayoutMismatch: If their layout is another, or they name the model's modules in another way.
        BaseModelMismatch: If they name another base model.
        SiteShapeMismatch: If they disagree on a site's shape, or the base model's layers.
        UpdateImpossible: If one has no site of the merge.
    """
    if not adapters:
        return
    layout = agreed_format(adapters)
    written_as = output_layout(str(manifest["format"]))
    both_pipelines = written_as.is_pipeline and output_layout(layout).is_pipeline
    if layout != written_as.name and not both_pipelines:
        raise LayoutMismatch(
            adapters[0].uri,
            f"its layout is {layout}'s, and the merge's {manifest['format']}'s",
            "Convert it first.",
        )
    base = agreed_base_model(adapters, recipe.base_model)
    if base != manifest["base_model"]:
        raise BaseModelMismatch(
            adapters[0].uri,
            f"it names the base model {base or '(none)'}, and the merge {manifest['base_model']}",
            "If they are one model under two names, merge again with --base-model.",
        )
    ours = state.carried.get(REVISION)
    other = next((a for a in adapters if revision_of(a) not in ("", ours)), None)
    if ours and other is not None and not recipe.base_model:
        raise BaseModelMismatch(
            other.uri,
            f"it names the revision {revision_of(other)} of the base model, and the merge {ours}",
            "Leave it out, or, if these revisions have the same weights, merge again with --base-model.",
        )
    fitted = {s.plan.site: (s.plan.kind, s.plan.d_in, s.plan.d_out) for s in state.sites}
    check_one_tree([Names("the merge", fitted), *names_in(adapters)], layout)
    check_shapes(adapters)
    shapes = _shapes_of(state)
    turned = bool(state.carried.get("fan_in_fan_out"))
    for adapter in adapters:
        shared = [f for f in adapter.sites if f.site in shapes]
        if not shared:
            raise UpdateImpossible(
                adapter.uri,
                "it has none of the merge's sites",
                "Merge all of them again with --refit.",
            )
        if bool(adapter.config.get("fan_in_fan_out", False)) != turned:
            raise SiteShapeMismatch(
                adapter.uri,
                f"fan_in_fan_out is {str(not turned).lower()} here and {str(turned).lower()} in the "
                "merge",
                "They were trained on different layer types; leave it out.",
            )
        for factors in shared:
            found, merged = shape_of(factors), shapes[factors.site]
            if found != merged:
                raise SiteShapeMismatch(
                    factors.site,
                    f"{adapter.uri} has {found}, and the merge {merged}",
                    "They were trained on different models; leave it out.",
                )


def _shapes_of(state: State) -> dict[str, SiteShape]:
    """The shape of each site of a merge, which has all experts of a parameter or none."""
    plans = [each.plan for each in state.sites]
    experts = Counter(parameter_of(p.site, p.kind) for p in plans if p.kind == "expert")
    return {
        p.site: SiteShape(
            p.kind, p.d_in, p.d_out, p.a_tail, experts.get(parameter_of(p.site, p.kind), 0)
        )
        for p in plans
    }


def weights_for(adapters: Sequence[AdapterRecord], recipe: Recipe) -> list[float]:
    """The recipe's weight of each adapter to add.

    Raises:
        InvalidOption: If it is 0.
    """
    given = by_places(recipe.weights, adapters)
    weights = [weight_of(adapter.uri, given) for adapter in adapters]
    for adapter, weight in zip(adapters, weights, strict=True):
        if not weight:
            raise InvalidOption(
                f"{ADD} {adapter.uri}", "the merge's recipe gives it weight 0", "Leave it out."
            )
    return weights
