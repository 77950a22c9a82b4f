"""Spread sites on a cluster: teams of actors that take one site after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from lego_ray.runners.ray.answers import get
from lego_ray.runners.ray.drift import versions_here
from lego_ray.runners.ray.placement import is_created
from lego_ray.runners.ray.room import Bundle, has_room
from lego_ray.runners.ray.waiting import Wait
from lego_ray.storage.carried import settings_here

if TYPE_CHECKING:
    from lego_ray.tasks.values import SolveTask, TaskResult

# Sites on the cluster at once, memory allowing: one is read, or waits for its slowest shard, while
# the other computes.
TEAMS = 2
# Time without a finished site after which the cluster is looked at again: nodes may have gone.
LOOK_AGAIN_SECONDS = 10.0
# Share of a core that an owner reserves. It computes little, but with none it could be placed on a head
# that has no cores; Ray then counts on that where it adds nodes, and not where it places the shards.
OWNER_CPUS = 0.001


def solve_on_teams(
    tasks: Sequence[SolveTask],
    *,
    slots: int,
    gpus: float,
    retries: int,
    wait: Wait,
    joined: bool,
) -> Iterator[TaskResult]:
    """Solves spread sites, each on a team of actors, and yields results as they are done.

    A team is asked for before there is room for it on a cluster, since an autoscaler adds nodes for
    what waits; it gets sites once it has its place.

    Args:
        tasks: Tasks with shards.
        slots: Workers the cluster has.
        gpus: Share of a GPU each shard takes.
        retries: Times a lost actor is started again for each site, and a failed read tried again.
        wait: How long to wait for the cluster.
        joined: Whether the cluster may get more nodes.

    Raises:
        ClusterTooSmall: If the cluster cannot hold all processes of a site at once.
        LegoRayError: What a task raised.
    """
    import ray

    if not tasks:
        return
    bundles = bundles_for(tasks, slots, gpus)
    what, plan = f"task {tasks[0].title}", tasks[0].plan_digest
    if not joined:
        wait.look(what, plan, bundles)
    several = len(tasks) > 1 and (joined or has_room(bundles * TEAMS))
    teams: list[_Team] = []
    waiting = list(tasks)
    running: dict[Any, tuple[_Team, SolveTask]] = {}
    wait.moved()
    try:
        teams += [_Team(bundles, tasks, gpus, retries) for _ in range(TEAMS if several else 1)]
        while waiting or running:
            for team in teams:
                busy = [other for other, _ in running.values()]
                if waiting and team not in busy and team.is_placed():
                    task = waiting.pop(0)
                    running[team.solve(task)] = (team, task)
            if not waiting:
                # An idle team would keep the place that a busy one needs when its node is lost.
                _end_idle(teams, running)
            if not running:
                if not (teams[0].is_placed(LOOK_AGAIN_SECONDS) or teams[0].is_placed()):
                    wait.look(what, plan, bundles, teams[0].group)
                continue
            done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_AGAIN_SECONDS)
            if done:
                wait.moved()
                _, task = running.pop(done[0])
                yield get(done[0], f"task {task.title}")
                if joined and waiting and len(teams) < TEAMS:  # one was given up: nodes come again
                    teams.append(_Team(bundles, tasks, gpus, retries))
            elif not joined and not has_room(bundles * len(teams)):
                wait.look(what, plan, bundles)  # without the second team at least
                _give_up(teams, running, waiting)
            elif joined and not has_room(bundles):
                # Nodes are gone; Ray places the teams again when others come.
                wait.look(what, plan, bundles, teams[0].group)
            elif joined and len(running) > 1 and not has_room(bundles * TEAMS):
                _give_up(teams, running, waiting)
    finally:
        for team in teams:
            team.close()


def _give_up(
    teams: list[_Team], running: dict[Any, tuple[_Team, SolveTask]], waiting: list[SolveTask]
) -> None:
    """Ends the last team, and puts its site back."""
    for answer, (team, task) in list(running.items()):
        if team is teams[-1] and len(teams) > 1:
            del running[answer]
            waiting.insert(0, task)
    teams.pop().close()


def _end_idle(teams: list[_Team], running: dict[Any, tuple[_Team, SolveTask]]) -> None:
    """Ends the teams that have no site; for when none waits."""
    busy = [team for team, _ in running.values()]
    for team in [team for team in teams if team not in busy]:
        if len(teams) > 1:
            teams.remove(team)
            team.close()


def bundles_for(tasks: Sequence[SolveTask], slots: int, gpus: float) -> list[Bundle]:
    """What each shard of a team reserves, enough for every site; and last, what their owner does."""
    peaks = [max(each) for each in zip_longest(*map(_peaks, tasks), fillvalue=0)]
    # A shard's share of a core, so that all teams' shards fill the slots and no more, and a node
    # takes a whole number of them.
    cpus = (1 / TEAMS - OWNER_CPUS) / -(-len(peaks) // slots)
    shards = [
        {"memory": float(peak), "CPU": cpus} | ({"GPU": gpus} if gpus else {}) for peak in peaks
    ]
    owner = float(max(task.plan.owner_bytes for task in tasks))
    return [*shards, {"memory": owner, "CPU": OWNER_CPUS}]


class _Team:
    """As many shard actors as the largest site needs, placed together or not at all; one owner.

    Attributes:
        group: The placement group that they are in.
    """

    def __init__(
        self, bundles: Sequence[Bundle], tasks: Sequence[SolveTask], gpus: float, retries: int
    ) -> None:
        from ray.util.placement_group import placement_group

        self._bundles = bundles
        self._gpus = gpus
        self._retries = retries
        self._restarts = retries * len(tasks)  # an actor serves many sites
        self.group = placement_group(list(bundles), strategy="PACK")
        self._actors: list[Any] = []

    def is_placed(self, seconds: float = 0) -> bool:
        """Whether it has its place on the cluster; its actors are started then.

        Args:
            seconds: How long to wait for it.
        """
        if not self._actors and (self.group.wait(seconds) if seconds else self._has_place()):
            self._begin()
        return bool(self._actors)

    def _has_place(self) -> bool:
        """Whether it has its place now; `PlacementGroup.wait(0)` often says no when it has."""
        return is_created(self.group)

    def _begin(self) -> None:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from lego_ray.runners.ray.actors import ShardActor, SiteActor, resilient

        def begun(actor: type, number: int, *given: Any, **more: Any) -> Any:
            place = PlacementGroupSchedulingStrategy(self.group, number)
            memory = int(self._bundles[number]["memory"])
            options = {"memory": memory, "scheduling_strategy": place, **more}
            return resilient(actor, self._restarts, **options).remote(*given)

        *shards, _ = self._bundles
        self._actors = [
            begun(
                ShardActor,
                number,
                self._gpus,
                self._retries,
                settings_here(),
                num_cpus=bundle["CPU"],
                num_gpus=self._gpus,
            )
            for number, bundle in enumerate(shards)
        ]
        self._owner = begun(SiteActor, len(shards), num_cpus=OWNER_CPUS)

    def solve(self, task: SolveTask) -> Any:
        """Begins a site; what Ray is asked about it."""
        import ray

        from lego_ray.runners.ray.actors import ShardAt
        from lego_ray.tasks.cut import shard_tasks

        parts, versions = shard_tasks(task), versions_here()
        shards = [
            ShardAt(f"{task.title} shard {number}/{len(parts)}", [ray.put(part)], versions)
            for number, part in enumerate(parts, 1)
        ]
        # The shards have the sources; the owner needs none.
        alone = replace(task, sources=())
        return self._owner.solve.options(name=f"SiteActor.solve {task.title}").remote(
            alone, self._actors[: len(shards)], shards
        )

    def close(self) -> None:
        """Ends its actors and gives their resources back."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for actor in (self._owner, *self._actors) if self._actors else ():
            ray.kill(actor)
        remove_placement_group(self.group)


def _peaks(task: SolveTask) -> list[int]:
    return sorted((shard.peak_bytes for shard in task.plan.shards), reverse=True)
