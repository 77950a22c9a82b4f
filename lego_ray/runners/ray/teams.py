"""Spread sites on a cluster: teams of actors that take one site after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from lego_ray.errors import RunFailed
from lego_ray.runners.ray.answers import get
from lego_ray.storage.carried import settings_here

if TYPE_CHECKING:
    from lego_ray.tasks.values import SolveTask, TaskResult

# Sites on the cluster at once, memory allowing: one is read, or waits for its slowest shard, while
# the other computes.
TEAMS = 2
# Time without a finished site after which the cluster is looked at again: nodes may have gone.
LOOK_AGAIN_SECONDS = 10.0

Bundle = dict[str, float]


def solve_on_teams(
    tasks: Sequence[SolveTask], *, slots: int, gpus: float, retries: int
) -> Iterator[TaskResult]:
    """Solves spread sites, each on a team of actors, and yields results as they are done.

    Args:
        tasks: Tasks with shards.
        slots: Workers the cluster has.
        gpus: Share of a GPU each shard takes.
        retries: Times a lost actor is started again for each site, and a failed read tried again.

    Raises:
        RunFailed: If the cluster cannot hold all shards of a site at once.
        LegoRayError: What a task raised.
    """
    import ray

    if not tasks:
        return
    bundles = bundles_for(tasks, slots, gpus)
    check_room(bundles, tasks[0].plan.name)
    count = TEAMS if len(tasks) > 1 and has_room(bundles * TEAMS) else 1
    teams = [_Team(bundles, tasks, gpus, retries) for _ in range(count)]
    waiting = list(tasks)
    running: dict[Any, tuple[_Team, SolveTask]] = {}
    try:
        while waiting or running:
            for team in teams:
                if waiting and team not in [busy for busy, _ in running.values()]:
                    task = waiting.pop(0)
                    running[team.solve(task)] = (team, task)
            done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_AGAIN_SECONDS)
            if done:
                _, task = running.pop(done[0])
                yield get(done[0], f"task {task.plan.name}")
            elif not has_room(bundles * len(teams)):
                check_room(bundles, tasks[0].plan.name)  # without the second team at least
                for answer, (team, task) in list(running.items()):
                    if team is teams[-1] and len(teams) > 1:
                        del running[answer]
                        waiting.insert(0, task)
                teams.pop().close()
    finally:
        for team in teams:
            team.close()


def bundles_for(tasks: Sequence[SolveTask], slots: int, gpus: float) -> list[Bundle]:
    """What each actor of a team reserves: enough for its shard of every site."""
    peaks = [max(each) for each in zip_longest(*map(_peaks, tasks), fillvalue=0)]
    # A shard's share of a core, so that all teams' shards fill the slots and no more, and a node
    # takes a whole number of them.
    cpus = 1 / (TEAMS * -(-len(peaks) // slots))
    return [
        {"memory": float(peak), "CPU": cpus} | ({"GPU": gpus} if gpus else {}) for peak in peaks
    ]


def has_room(bundles: Sequence[Bundle]) -> bool:
    """Whether the nodes that are alive can hold all these at once, first fit, largest first."""
    import ray

    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    for bundle in sorted(bundles, key=lambda b: -b["memory"]):
        node = next(
            (n for n in nodes if all(n.get(key, 0) >= need for key, need in bundle.items())), None
        )
        if node is None:
            return False
        for key, need in bundle.items():
            node[key] -= need
    return True


def check_room(bundles: Sequence[Bundle], site: str) -> None:
    """Raises `RunFailed` if they cannot be held."""
    import ray

    if has_room(bundles):
        return
    need = sum(b["memory"] for b in bundles)
    have = ray.cluster_resources().get("memory", 0)
    raise RunFailed(
        site,
        f"its pool needs {len(bundles)} workers of up to "
        f"{max(b['memory'] for b in bundles) / 2**30:.2f} GiB at once, {need / 2**30:.2f} GiB in "
        f"all, and the cluster has {have / 2**30:.2f} GiB",
        "Add nodes, set --memory-budget to what they have, or merge fewer adapters.",
    )


class _Team:
    """As many shard actors as the largest site needs, placed together or not at all; one owner."""

    def __init__(
        self, bundles: Sequence[Bundle], tasks: Sequence[SolveTask], gpus: float, retries: int
    ) -> None:
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from lego_ray.runners.ray.actors import ShardActor, SiteActor, resilient

        restarts = retries * len(tasks)  # an actor serves many sites
        self._group = placement_group(list(bundles), strategy="PACK")
        self._actors = [
            resilient(
                ShardActor,
                restarts,
                num_cpus=bundle["CPU"],
                num_gpus=gpus,
                memory=int(bundle["memory"]),
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, number),
            ).remote(gpus, retries, settings_here())
            for number, bundle in enumerate(bundles)
        ]
        memory = max(task.plan.owner_bytes for task in tasks)
        self._owner = resilient(SiteActor, restarts, memory=memory).remote()

    def solve(self, task: SolveTask) -> Any:
        """Begins a site; what Ray is asked about it."""
        import ray

        from lego_ray.runners.ray.actors import ShardAt
        from lego_ray.tasks.cut import shard_tasks

        shards = [
            ShardAt(f"{task.plan.name} shard {number}", [ray.put(part)])
            for number, part in enumerate(shard_tasks(task))
        ]
        # The shards have the sources; the owner needs none.
        alone = replace(task, sources=())
        return self._owner.solve.remote(alone, self._actors[: len(shards)], shards)

    def close(self) -> None:
        """Ends its actors and gives their resources back."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for actor in (self._owner, *self._actors):
            ray.kill(actor)
        remove_placement_group(self._group)


def _peaks(task: SolveTask) -> list[int]:
    return sorted((shard.peak_bytes for shard in task.plan.shards), reverse=True)
