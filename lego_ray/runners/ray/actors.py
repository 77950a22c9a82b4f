"""The actors of a spread site: shards that hold its pool, and one owner that clusters it.

A lost node or process: Ray starts the actor again and calls it again. A shard reads its byte ranges
again and remembers nothing else; the owner starts its site over. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle

from lego_ray.errors import RunFailed, StoreUnavailable
from lego_ray.numerics.shards.shard import Shard
from lego_ray.runners.ray.answers import get
from lego_ray.runners.ray.drift import check_versions
from lego_ray.storage.carried import use_settings
from lego_ray.tasks.device import device_of
from lego_ray.tasks.solve import load_shard, one_thread, solve_spread
from lego_ray.tasks.values import SolveTask, TaskResult

T = TypeVar("T")


class ShardActor:
    """Holds one shard at a time and computes on it what it is asked.

    Each call names the shard it means and where its task lies, so an actor serves site after site,
    and one that took the place of another reads what that one held.
    """

    def __init__(
        self, gpus: float, retries: int, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        use_settings(settings)
        self._gpus = gpus
        self._retries = retries
        self._holds = ""
        self._shard: Shard | None = None
        self._report: TaskResult | None = None

    def load(self, at: ShardAt) -> TaskResult:
        """Reads a shard, unless it is the one held; says what that showed."""
        check_versions(at.versions, at.name)
        if self._holds != at.name or self._report is None:
            self._holds, self._shard, self._report = at.name, None, None  # before the next is read
            self._shard, self._report = self._read(ray.get(at.task[0]))
        return self._report

    def _read(self, task: SolveTask) -> tuple[Shard | None, TaskResult]:
        """Reads a shard; again if the store fails in a way that may pass."""
        for _ in range(self._retries):
            with suppress(StoreUnavailable):  # which has tried several times itself
                return load_shard(task, device_of(self._gpus))
        return load_shard(task, device_of(self._gpus))

    def call(
        self,
        at: ShardAt,
        function: Callable[..., T],
        own: tuple[Any, ...],
        shared: tuple[Any, ...],
    ) -> T:
        """Calls `function(shard, *own, *shared)`."""
        self.load(at)
        if self._shard is None:
            raise RunFailed(at.name, "a source was changed while it was read", "Start again.")
        with one_thread():
            return function(self._shard, *own, *shared)


@dataclass(frozen=True, slots=True)
class ShardAt:
    """Which shard a call means.

    Attributes:
        name: Of its own among all shards of the run.
        task: The task that reads it, in Ray's object store; in a list, so that it is fetched when it
            is needed and not with every call.
        versions: Of the packages that its bytes depend on, as the driver has them.
    """

    name: str
    task: list[ray.ObjectRef[SolveTask]]
    versions: Mapping[str, str] = field(default_factory=dict)


class RayShards:
    """One site's shards in actors."""

    def __init__(
        self, actors: Sequence[ActorHandle[ShardActor]], shards: Sequence[ShardAt]
    ) -> None:
        self._actors = list(zip(actors, shards, strict=True))

    def load(self) -> list[TaskResult]:
        """Reads all shards at once; see `ShardActor.load`."""
        loading = [
            actor.load.options(name=f"ShardActor.load {at.name}").remote(at)
            for actor, at in self._actors
        ]
        return [get(each, "a shard") for each in loading]

    def map(
        self, function: Callable[..., T], *shared: Any, own: Sequence[Any] | None = None
    ) -> Iterator[T]:
        """Calls the function on all shards at once; see `Shards.map`."""
        everywhere = ray.put(shared)  # once, whatever the number of shards
        answers = [
            actor.call.options(name=f"ShardActor.call {at.name}").remote(
                at, function, () if own is None else (own[number],), everywhere
            )
            for number, (actor, at) in enumerate(self._actors)
        ]
        while answers:
            yield get(answers.pop(0), "a shard")


class SiteActor:
    """Owns one spread site at a time: seeds, sends centroids out, folds what comes back."""

    def solve(
        self,
        task: SolveTask,
        actors: Sequence[ActorHandle[ShardActor]],
        shards: Sequence[ShardAt],
    ) -> TaskResult:
        """Loads the shards and solves the site; see `tasks.solve.solve_spread`."""
        spread = RayShards(actors, shards)
        return solve_spread(task, spread, spread.load())


def resilient(actor: type, restarts: int, **options: Any) -> Any:
    """An actor class whose actors are started again this many times, and called again each time.

    Calls are repeated without a bound of their own: while a node is not yet known to be lost, each
    try of a call fails.
    """
    return ray.remote(actor).options(
        max_restarts=restarts, max_task_retries=-1, **{"num_cpus": 0, **options}
    )
