"""The next version of a merge made again: every adapter read, with the same recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lego_ray.catalog.tables import Catalog
from lego_ray.errors import InvalidOption
from lego_ray.merging.merge import merge_at
from lego_ray.merging.record import UpdateRecord, with_more
from lego_ray.merging.updates.changes import place_of
from lego_ray.merging.updates.drift import REFIT_ABOVE
from lego_ray.merging.updates.parent import MergedBefore
from lego_ray.output.write import written_at
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.scan_limits import ScanLimits
from lego_ray.planning.weights import means
from lego_ray.runners.base import Runner
from lego_ray.sources.identities import sightings_of
from lego_ray.storage.places import Place
from lego_ray.tasks.values import Progress


def refit_merge(
    before: MergedBefore,
    *,
    add: Sequence[str],
    going: Sequence[Mapping[str, Any]],
    output: Place,
    catalog: Catalog | None,
    runner: Runner,
    memory_budget: int,
    strict: bool,
    checkpoints: str,
    limits: ScanLimits,
    progress: Progress,
) -> UpdateRecord:
    """Merges again what a merge was made of, with the changes; see `update`.

    Args:
        before: The merge.
        add: Adapters to add.
        going: Sources to leave out.
        output: Where the version goes.
        catalog: Where it is recorded, or None.
        runner: What runs the tasks.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        checkpoints: As for `scan_sources`.
        limits: As for `scan_sources`.
        progress: Called with the plan when it is made (result None), and with each result.
    """
    staying = [s for s in before.manifest["sources"] if s not in going]
    staying = [{**s, "uri": place_of(s, catalog)} for s in staying]
    sources = [*(s["uri"] for s in staying), *add]
    recipe = _recipe(before, staying, sources)
    record = merge_at(
        sources,
        recipe,
        output=output,
        catalog=catalog,
        runner=runner,
        memory_budget=memory_budget,
        strict=strict,
        trainer_checkpoints=checkpoints,
        limits=limits,
        progress=progress,
        more={**before.told(), "drift": 0.0, "skipped_sites": []},
        known=sightings_of(before.manifest, written_at(before.store)),
    )
    known = {s["uri"] for s in (*before.manifest["sources"], *staying)}
    return with_more(
        record,
        UpdateRecord,
        bytes_read=record.bytes_read + before.store.bytes_read,
        parent=before.manifest["merge_id"],
        version=before.version + 1,
        added=tuple(uri for uri in record.adapters if uri not in known),
        removed=tuple(s["uri"] for s in going),
        drift=0.0,
        refit_above=REFIT_ABOVE,
    )


def _recipe(
    before: MergedBefore, staying: Sequence[Mapping[str, Any]], sources: Sequence[str]
) -> Recipe:
    """The same recipe: weights by what they meant, and running sums kept where they can be.

    A weight whose adapters are all gone is dropped, since a name of nothing is an error.
    """
    given = before.manifest["recipe"].get("weights", {})
    own = {s["uri"]: s["weight"] for s in staying if s.get("weight", 1.0) != 1.0}
    rest = {name: w for name, w in given.items() if any(means(name, uri) for uri in sources)}
    recipe = before.recipe(weights={**rest, **own})
    try:
        return replace(recipe, updatable=True)
    except InvalidOption:
        return recipe
