"""Adapters whose weights turn out bad, which no header can show: named, and set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from types import MappingProxyType

from lego_ray import journal
from lego_ray.errors import LegoRayError
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.inventory import Inventory, check_strict
from lego_ray.planning.plan import Plan
from lego_ray.tasks.update import UpdateResult
from lego_ray.tasks.values import TaskResult


def bad_adapters(
    adapters: Sequence[AdapterRecord], results: Iterable[TaskResult | UpdateResult]
) -> dict[str, LegoRayError]:
    """URI of each adapter that turned out bad, with the reason that does not depend on who was first.

    Args:
        adapters: The adapters by the numbers that results name them by.
        results: Results of tasks.
    """
    bad: dict[str, LegoRayError] = {}
    for result in results:
        for number, error in result.quarantined.items():
            uri = adapters[number].uri
            bad[uri] = min(bad.get(uri, error), error, key=str)
    return bad


def without_bad(
    plan: Plan,
    inventory: Inventory,
    bad: Mapping[str, LegoRayError],
    strict: bool,
    contents: Mapping[str, str] = MappingProxyType({}),
) -> Inventory:
    """The inventory without adapters that a plan's results say are bad.

    Args:
        plan: The plan.
        inventory: What it was made of.
        bad: What is wrong with each, by URI.
        strict: Whether one fails the run.
        contents: From `contents_of`.

    Raises:
        StrictRefusal: If strict.
    """
    for uri, error in sorted(bad.items()):
        journal.note("adapter quarantined", plan.digest, WARNING, adapter=uri, reason=error.problem)
    inventory = inventory.quarantine(bad, contents)
    check_strict(inventory, strict)
    return inventory
