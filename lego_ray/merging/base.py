"""What a merge on the road is: a merge of all its adapters, or an update, each in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from lego_ray.errors import LegoRayError
from lego_ray.merging.finish import Merged
from lego_ray.merging.record import MergeRecord
from lego_ray.merging.stages import Stages
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.planning.plan import Plan
from lego_ray.runners.base import Runner
from lego_ray.storage.base import Store


class Run(Protocol):
    """One merge on its way from a plan to its files; `run.Road` calls it in this order.

    Attributes:
        name: The merge's name.
        asked: The plan as it was asked for, by whose digest the output is known as this run's.
        plan: The plan that is run now.
        store: The output.
        checkpoints: What is kept there until the merge is published.
        stages: Where its time went.
        bytes_read: Bytes of tensors that were read so far.
        resumed_sites: Sites that were taken from an earlier run.
    """

    name: str
    asked: Plan
    plan: Plan
    store: Store
    checkpoints: Checkpoints
    stages: Stages
    bytes_read: int
    resumed_sites: int

    @property
    def stage(self) -> str:
        """What the time that its tasks take is recorded under."""

    def held(self, catalog: str | None) -> AbstractContextManager[None]:
        """Marks the output as being made by the plan that was asked for.

        Args:
            catalog: Where the merge will be recorded.
        """

    def begin(self) -> None:
        """Begins the present plan.

        Raises:
            SourceChanged: If a configuration is not the one that was scanned.
        """

    def tasks(self) -> Iterator[Any]:
        """What is left of the plan."""

    def take(self, result: Any, runner: Runner) -> None:
        """Takes the result of one of the tasks.

        Args:
            result: The result.
            runner: What ran it.
        """

    def bad(self) -> Mapping[str, LegoRayError]:
        """Adapters whose weights turned out bad, by URI. Called when all tasks are done.

        Raises:
            VerificationFailed: If it is one that the merge cannot do without.
        """

    def is_last(self) -> bool:
        """Whether the plan gave the merge. Called if no adapter is bad.

        Raises:
            SitesFailed: If a site is missing from the results.
            SourceChanged: If a file of an adapter is not the one that was scanned.
        """

    def plan_again(self, bad: Mapping[str, LegoRayError]) -> None:
        """Makes the next plan: the one without bad adapters or, if there are none, of the next pass.

        Args:
            bad: From `bad`.

        Raises:
            BadInput: If there is none.
            StrictRefusal: If strict and an adapter is bad.
        """

    def merged(self) -> Merged:
        """What is to be written. Called if `is_last`."""

    def full_record(self, record: MergeRecord, published: Mapping[str, Any] | None) -> MergeRecord:
        """The record of the merge, with what else a run of this kind reports.

        Args:
            record: The record so far.
            published: The manifest, if the merge was published before.
        """
