"""A later version as a plan: what names it, its tasks, and all that publishes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lego_ray.formats.record import AdapterRecord, Refused
from lego_ray.merging.updates.version import Version
from lego_ray.output.running_sums import State, StateSite
from lego_ray.planning.licenses import license_conflicts
from lego_ray.planning.loading import reader_warnings
from lego_ray.planning.plan import PLAN_VERSION, Plan
from lego_ray.planning.recipe import digest_of
from lego_ray.planning.task_plans import WORKER_BYTES, SitePlan, TaskPlan

# Changes whenever the same update would give other bits.
UPDATE_VERSION = 1
# Sums of the sites of one task, a few times which it takes.
TASK_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class KnownAdapter(AdapterRecord):
    """A source as the manifest of a merge knows it: its headers are not read again, so no sites.

    Attributes:
        rank_range: Its smallest and largest rank.
    """

    rank_range: tuple[int, int] = field(default=(0, 0))

    @property
    def ranks(self) -> tuple[int, ...]:
        """Its smallest and largest rank."""
        return self.rank_range


def digest_of_version(version: Version) -> str:
    """The merge_id of a version: of its fit, its recipe with its parent, and its adapters."""
    asked = version.recipe.as_json()
    asked.pop("base", None)  # as in the digest of a plan
    return digest_of(
        {
            "plan_version": PLAN_VERSION,
            "update_version": UPDATE_VERSION,
            "fit": version.before.fit,
            "recipe": asked,
            "adapters": version.identities(),
        }
    )


def plan_of(
    version: Version,
    manifest: Mapping[str, Any],
    sources: Sequence[Mapping[str, Any]],
    groups: Sequence[TaskPlan],
    refused: Sequence[Refused],
    memory_budget: int,
) -> Plan:
    """A version as everything that publishes takes it.

    Args:
        version: The version.
        manifest: Its parent's.
        sources: Its adapters, as a manifest lists them.
        groups: From `grouped`; sites without MSUs are left out.
        refused: Adapters that were to be added and could not.
        memory_budget: Most bytes one worker may take.
    """
    adapters = tuple(_known(source, manifest, version.before) for source in sources)
    merged = [replace(g, sites=tuple(s for s in g.sites if s.n_msus)) for g in groups]
    limits = reader_warnings(
        manifest["format"],
        version.recipe.name,
        manifest["base_model"],
        adapters,
        [site for task in merged for site in task.sites],
        rank=version.recipe.rank or 0,
        compact=version.recipe.compact,
    )
    return Plan(
        recipe=version.recipe,
        base_model=manifest["base_model"],
        dtype=manifest["dtype"],
        format=manifest["format"],
        adapters=adapters,
        weights=tuple(source["weight"] for source in sources),
        refused=tuple(refused),
        tasks=tuple(merged),
        memory_budget=memory_budget,
        warnings=(*license_conflicts(adapters), *limits),
        limits=limits,
        digest=digest_of_version(version),
        nearest_error=None,
    )


def _known(source: Mapping[str, Any], manifest: Mapping[str, Any], state: State) -> KnownAdapter:
    return KnownAdapter(
        uri=source["uri"],
        weights_key="",
        adapter_id=source["adapter_id"],
        version=source["version"],
        revision=source["revision"],
        format=manifest["format"],
        base_model=manifest["base_model"],
        sites=(),
        full_weights=(),
        n_bytes=0,
        config=state.carried,
        license=source["license"],
        notes=tuple(source["notes"]),
        rank_range=(source["rank_min"], source["rank_max"]),
    )


def grouped(plans: Sequence[SitePlan], sites: Sequence[StateSite]) -> list[TaskPlan]:
    """Cuts the sites into tasks, each of sums that fit `TASK_BYTES` together."""
    groups: list[list[SitePlan]] = []
    room = 0
    sizes: list[int] = []
    for plan, site in zip(plans, sites, strict=True):
        size = 8 * site.running.fit.sums.numel()
        if size > room:
            groups.append([])
            sizes.append(0)
            room = TASK_BYTES
        groups[-1].append(plan)
        sizes[-1] += size
        room -= size
    return [
        TaskPlan(
            name=f"update {number + 1} of {len(groups)}",
            sites=tuple(group),
            read_bytes=0,
            peak_bytes=WORKER_BYTES + 4 * size,
        )
        for number, (group, size) in enumerate(zip(groups, sizes, strict=True))
    ]
