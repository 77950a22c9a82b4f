"""The plan of a later version: what an update makes of a merge, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lego_ray.formats.record import AdapterRecord
from lego_ray.lazy import torch
from lego_ray.output.manifest import source_of
from lego_ray.output.running_sums import State
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import SitePlan, TaskPlan
from lego_ray.tasks.update import Change, UpdateTask
from lego_ray.tasks.values import SourceSlice


@dataclass(frozen=True, slots=True)
class Coming:
    """An adapter to add.

    Attributes:
        record: Its headers.
        weight: Factor on its update.
    """

    record: AdapterRecord
    weight: float


@dataclass(frozen=True, slots=True)
class Version:
    """A merge's next version.

    Attributes:
        before: The state before.
        recipe: The recipe, with its parent.
        sources: Adapters that change: those that come, then those that go.
        weights: Factors on their updates.
        changes: What becomes of each.
        kept: As in `UpdateTask`.
        present: As in `UpdateTask`.
        added: Adapters outside the fit that are in from now on: entries of a manifest, or those to
            come, whose hashes are known when they are read.
    """

    before: State
    recipe: Recipe
    sources: tuple[AdapterRecord, ...]
    weights: tuple[float, ...]
    changes: tuple[Change, ...]
    kept: tuple[int, ...]
    present: tuple[bool, ...]
    added: tuple[Mapping[str, Any] | Coming, ...]

    def site_plans(self) -> list[SitePlan]:
        """Every site of the fit, with the MSUs it has from now on."""
        ranks: dict[str, list[int]] = {}
        for record, change in zip(self.sources, self.changes, strict=True):
            if change.sign > 0 and change.fit is None:
                for factors in record.sites:
                    ranks.setdefault(factors.site, []).append(factors.rank)
        present = torch.tensor(self.present, dtype=torch.bool)
        numbers = torch.tensor([*self.kept, -1])
        found = []
        for site in self.before.sites:
            fitted = site.running.fit.members.adapters
            mine = fitted[present[fitted]]
            others = numbers[site.running.added.adapters]
            others = others[others >= 0]
            new = ranks.get(site.plan.site, [])
            found.append(
                replace(
                    site.plan,
                    n_msus=len(mine) + len(others) + sum(new),
                    n_adapters=len(torch.unique(mine)) + len(torch.unique(others)) + len(new),
                    route="update",
                )
            )
        return found

    def tasks(self, plans: Sequence[TaskPlan], memory_budget: int) -> list[UpdateTask]:
        """The tasks, one of each plan."""
        sites = {site.plan.site: site for site in self.before.sites}
        return [
            UpdateTask(
                index=index,
                recipe=self.recipe,
                plan=task,
                running=tuple(sites[plan.site].running for plan in task.sites),
                sources=tuple(_slices(self, {plan.site for plan in task.sites})),
                changes=self.changes,
                kept=self.kept,
                present=self.present,
                memory_budget=memory_budget,
                of=len(plans),
            )
            for index, task in enumerate(plans)
        ]

    def skipped_sites(self) -> list[str]:
        """Sites of adapters that come which the fit has not."""
        known = {site.plan.site for site in self.before.sites}
        return sorted(
            {
                factors.site
                for record, change in zip(self.sources, self.changes, strict=True)
                for factors in record.sites
                if change.sign > 0 and factors.site not in known
            }
        )

    def identities(self) -> list[list[Any]]:
        """What the version is made of: id and weight of each adapter."""
        there = [s for s, here in zip(self.before.fitted, self.present, strict=True) if here]
        found = [[s["adapter_id"], s["weight"]] for s in there]
        for each in self.added:
            if isinstance(each, Coming):
                found.append([each.record.adapter_id, each.weight])
            else:
                found.append([each["adapter_id"], each["weight"]])
        return sorted(found)

    def sources_asked(self) -> list[Mapping[str, Any]]:
        """Its adapters as a manifest lists them; those to come are not read yet and have no hash."""
        there = [s for s, here in zip(self.before.fitted, self.present, strict=True) if here]
        coming = [
            source_of(each.record, "", each.weight) if isinstance(each, Coming) else each
            for each in self.added
        ]
        return sorted([*there, *coming], key=lambda s: (s["adapter_id"], s["uri"]))


def next_version(
    before: State,
    recipe: Recipe,
    coming: Sequence[Coming],
    going: Sequence[tuple[Mapping[str, Any], AdapterRecord]],
) -> Version:
    """Works out what becomes of each adapter.

    One that was in the fit, went, and comes back is the fit's again.

    Args:
        before: The state before.
        recipe: The recipe, with its parent.
        coming: Adapters to add.
        going: Sources to remove, with their headers.
    """
    present = list(before.present)
    out = [source for source, _ in going]
    staying = [(n, s) for n, s in enumerate(before.added) if s not in out]
    changes: list[Change] = []
    fresh: list[Coming] = []
    back: dict[int, int] = {}
    for number, each in enumerate(coming):
        again = _in_fit(before, present, each)
        if again is None:
            fresh.append(each)
        else:
            present[again] = True
            back[number] = again
    added: list[Mapping[str, Any] | Coming] = sorted([*(s for _, s in staying), *fresh], key=_key)
    for number, each in enumerate(coming):
        if number in back:
            changes.append(Change(1, fit=back[number]))
        else:
            changes.append(Change(1, after=added.index(each)))
    for source in out:
        if source in before.added:
            changes.append(Change(-1, before=before.added.index(source)))
            continue
        number = next(n for n, s in enumerate(before.fitted) if before.present[n] and s == source)
        present[number] = False
        changes.append(Change(-1, fit=number))
    kept = [-1] * len(before.added)
    for number, source in staying:
        kept[number] = added.index(source)
    return Version(
        before=before,
        recipe=recipe,
        sources=(*(c.record for c in coming), *(record for _, record in going)),
        weights=(*(c.weight for c in coming), *(source["weight"] for source in out)),
        changes=tuple(changes),
        kept=tuple(kept),
        present=tuple(present),
        added=tuple(added),
    )


def _in_fit(state: State, present: Sequence[bool], coming: Coming) -> int | None:
    """The number in the fit of an adapter that went."""
    wanted = (coming.record.adapter_id, coming.weight)
    for number, source in enumerate(state.fitted):
        if not present[number] and (source["adapter_id"], source["weight"]) == wanted:
            return number
    return None


def _key(each: Mapping[str, Any] | Coming) -> tuple[str, str]:
    if isinstance(each, Coming):
        return each.record.adapter_id, each.record.uri
    return each["adapter_id"], each["uri"]


def _slices(version: Version, sites: set[str]) -> list[SourceSlice]:
    slices = []
    for number, (record, weight) in enumerate(zip(version.sources, version.weights, strict=True)):
        factors = tuple(f for f in record.sites if f.site in sites)
        if factors:
            slices.append(SourceSlice.of(record, number, factors, weight=weight))
    return slices
