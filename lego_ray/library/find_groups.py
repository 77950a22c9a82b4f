"""Finds groups of adapters whose updates are alike: a pass that measures, before anything is merged."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from lego_ray import journal
from lego_ray.errors import InvalidOption
from lego_ray.merging.bad_adapters import bad_adapters, without_bad
from lego_ray.methods.similarity import Similarity
from lego_ray.numerics.similarity.parts import SimilaritySums, cosines_bytes
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.grouped import Grouping, grouping_of, plan_similarity
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe, digest_of
from lego_ray.runners.base import Runner
from lego_ray.runners.open import closing_results
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.passes import Comparing
from lego_ray.tasks.solve import one_thread
from lego_ray.tasks.values import Progress, TaskResult


@dataclass(slots=True)
class GroupFinder:
    """Measures adapters and groups them; any number of times, one after another.

    Reads every adapter's factors once, which the merges that follow do again: nothing is kept, and the
    same adapters give the same groups, on any runner.

    Attributes:
        runner: What runs the tasks.
        memory_budget: Most bytes one worker may take, and this process to group by what they found.
        strict: Whether an adapter that turns out bad is an error.
        progress: Called with each plan that is measured (result None), and with each result.
        bytes_read: Bytes that were read so far.
    """

    runner: Runner
    memory_budget: int
    strict: bool
    progress: Progress
    bytes_read: int = field(default=0)

    def find(self, recipe: Recipe, inventory: Inventory, how: GroupOptions) -> Grouping:
        """Groups some adapters.

        Inner products of updates are exact at sites of at most `similarity.MOST_EXACT` MSUs that fit a
        worker; others are sketched.

        Args:
            recipe: What is to be made of each group.
            inventory: The adapters.
            how: How many groups, and who stays alone.

        Raises:
            BadInput: If the adapters do not go together, or are too many for the memory budget.
            StrictRefusal: If strict and an adapter turned out bad.
        """
        need = cosines_bytes(len(inventory.adapters))
        if need > self.memory_budget:
            raise InvalidOption(
                "--memory-budget",
                f"grouping {len(inventory.adapters)} adapters needs {need / 2**30:.2f} GiB in this "
                f"process, the budget is {self.memory_budget / 2**30:.2f} GiB",
                "Raise the budget, or choose fewer adapters for the entry.",
            )
        while True:
            plan, work = plan_similarity(recipe, inventory, memory_budget=self.memory_budget)
            sums, bad = self._measure(plan, work)
            if not bad:
                break
            said = bad_adapters(plan.adapters, bad)
            inventory = without_bad(plan, inventory, said, self.strict)
        with one_thread():
            cosines = sums.cosines()
        found = grouping_of(plan, inventory, cosines, how)
        journal.note(
            "adapters grouped",
            plan.digest,
            name=recipe.name,
            adapters=len(found.members),
            groups=len(found.groups),
            alone=len(found.alone),
            silhouette=found.silhouette,
        )
        return found

    def _measure(self, plan: Plan, work: Similarity) -> tuple[SimilaritySums, list[TaskResult]]:
        """What all sites say, added in the plan's order; and results with adapters that are bad."""
        self.progress(replace(plan, recipe=replace(plan.recipe, name=_shown(plan))), None)
        sums, bad = SimilaritySums(len(plan.adapters)), []
        # Spread sites last, which is when runners do them: few results have to wait for their turn.
        turns = deque(sorted(range(len(plan.tasks)), key=lambda at: bool(plan.tasks[at].shards)))
        waiting: dict[int, TaskResult] = {}
        with closing_results(self.runner, tasks_of(plan, work=Comparing(work))) as results:
            for result in results:
                self.bytes_read += result.bytes_read
                if result.quarantined:
                    bad.append(result)
                self.progress(plan, result)
                waiting[result.index] = result
                while turns and turns[0] in waiting:
                    for part in waiting.pop(turns.popleft()).found:
                        sums.add(part)
        return sums, bad


def _shown(plan: Plan) -> str:
    return f"{plan.recipe.name}, compared"


def group_record(found: Grouping, merges: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is reported of a grouping.

    Args:
        found: The grouping.
        merges: Records of merges, by name.

    Returns:
        `name`, `count` and `alone_below` as asked, `silhouette`; `groups`, a list of `{name, merge_id,
        adapters}`, and `alone`, a list of adapters: each `{adapter, adapter_id, similarity,
        nearest_group, nearest_similarity}`.
    """
    return {
        "name": found.name,
        **found.options.as_json(),
        "silhouette": found.silhouette,
        "groups": [
            {
                "name": name,
                "merge_id": merges[name]["merge_id"],
                "adapters": [member.as_json() for member in members],
            }
            for name, members in found.groups.items()
        ],
        "alone": [member.as_json() for member in found.alone],
    }


def grouping_id(
    found: Grouping, merges: Mapping[str, Mapping[str, Any]], *, former: bool = False
) -> str:
    """What a grouping is called in the catalog.

    Args:
        found: The grouping.
        merges: Records of its groups' merges, by name.
        former: Whether to give what earlier releases called it.
    """
    ids = {name: merges[name]["merge_id"] for name in found.groups}
    measured = found.former if former else found.digest
    return digest_of({"measured": measured, "how": found.options.as_json(), "merges": ids})


def group_rows(
    found: Grouping, merges: Mapping[str, Mapping[str, Any]], found_at: datetime
) -> Sequence[dict[str, Any]]:
    """Rows of the catalog's `groups`.

    Args:
        found: The grouping.
        merges: Records of its groups' merges, by name.
        found_at: What to say of when.
    """
    ids = {name: merges[name]["merge_id"] for name in found.groups}
    name = grouping_id(found, merges)
    return [
        {
            "grouping_id": name,
            "name": found.name,
            "group_name": member.group or None,
            "merge_id": ids.get(member.group),
            "adapter_id": member.adapter.adapter_id,
            "uri": member.adapter.uri,
            "status": "member" if member.group else "alone",
            "similarity": member.similarity,
            "nearest_group": member.nearest_group,
            "nearest_similarity": member.nearest_similarity,
            "silhouette": found.silhouette,
            "found_at": found_at,
        }
        for member in found.members
    ]
