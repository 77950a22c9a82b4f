"""Runs tasks on Ray: a local one, or a cluster that is already up."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lego_ray.errors import ClusterTooSmall, StoreUnavailable
from lego_ray.runners.base import READS_BESIDE
from lego_ray.runners.ray.answers import get
from lego_ray.runners.ray.drift import checked, guarded, versions_here
from lego_ray.runners.ray.drivers import has_ended, presence_here
from lego_ray.runners.ray.metrics import counting_retries
from lego_ray.runners.ray.placement import group_of_this_task, state_of
from lego_ray.runners.ray.room import Bundle, needs, totals
from lego_ray.runners.ray.session import RaySession
from lego_ray.runners.ray.teams import LOOK_AGAIN_SECONDS, solve_on_teams
from lego_ray.runners.ray.waiting import Wait
from lego_ray.storage.carried import settings_here, use_settings

if TYPE_CHECKING:
    from lego_ray.tasks.joint import JointTask
    from lego_ray.tasks.values import SolveTask

# A worker that dies (out of memory, a lost node) gives its task to another this many times.
TASK_RETRIES = 3
# Most workers that a cluster is asked for, and most bytes of tasks that wait for them: an autoscaler
# sees only what is submitted, and all of it is held by this process and the object store beside it.
MOST_WORKERS = 1000
PENDING_BYTES = 256 * 2**20
_IN_GROUP = (
    "Ask for larger bundles, memory included, or start the caller without "
    "placement_group_capture_child_tasks."
)


class RayRunner:
    """Runs tasks on Ray: a local one gets no more at once than its workers can take.

    A cluster gets more, up to a bound, since an autoscaler adds nodes for tasks that wait and for
    nothing else. They are no resource of the cluster: tasks that wait end with this process.

    Each task reserves its planned memory, so that Ray places no more on a node than it can hold.
    Spread sites come last, a few at a time.
    """

    name = "ray"

    def __init__(
        self,
        address: str = "local",
        workers: int | None = None,
        gpus: float = 0.0,
        *,
        max_workers: int | None = None,
        wait: float | None = None,
    ) -> None:
        """Describes where to run; `start` or `run` connects.

        Args:
            address: `local` starts a Ray, `auto` joins the running cluster, or a cluster's address.
            workers: Most tasks at once; None for one a CPU of the cluster.
            gpus: Share of a GPU each task takes; 0 for none.
            max_workers: Most workers to ask a cluster for; None for one per task, up to `MOST_WORKERS`.
            wait: Seconds to wait for a node that can hold a task; None for the default.
        """
        self._session = RaySession(address, workers)
        self._workers = workers
        self._gpus = gpus
        self._address = address
        self._joined = address != "local"
        self._stays = False
        self._max_workers = max_workers
        self._wait = wait

    def start(self) -> None:
        """Begins to bring Ray up."""
        self._session.start()

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result as it is done.

        Raises:
            BadInput: If Ray cannot be started or reached.
            RunFailed: If a task failed in a way that is no `LegoRayError`, lost its worker too
                often.
            ClusterTooSmall: If a task cannot be placed, and no node came that can hold it.
        """
        self._session.wait()
        spread: list[SolveTask] = []

        def whole() -> Iterator[SolveTask | JointTask]:
            for task in tasks:
                if task.plan.shards:
                    spread.append(task)
                else:
                    yield task

        yield from self._in_flight(whole())
        yield from solve_on_teams(
            spread,
            slots=self._slots(),
            gpus=self._gpus,
            retries=TASK_RETRIES,
            wait=Wait(self._wait, joined=self._joined),
            joined=self._joined,
        )

    def presence(self) -> Mapping[str, str]:
        """By what the joined cluster knows this process; empty for a Ray that this process started.

        Raises:
            BadInput: If the cluster cannot be reached.
        """
        if not self._joined:
            return {}
        self._session.wait()
        self._stays = True
        return presence_here()

    def has_ended(self, presence: Mapping[str, str]) -> bool:
        """Whether the cluster says that the process with a presence has ended."""
        return self._joined and has_ended(self._address, presence)

    def stop(self) -> None:
        """Begins to take Ray down, if it was started here and nobody relies on `presence`."""
        if not self._stays:
            self._session.stop()

    def close(self) -> None:
        """Takes Ray down, if it was started here, and waits for it."""
        self._session.close()

    def _slots(self) -> int:
        """Workers at once; asked each time, for nodes come and go."""
        import ray

        now = self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        return min(now, self._max_workers or now)

    def _asked(self) -> int:
        """Workers that are asked for: more than there are, on a cluster that may grow."""
        if self._workers or not self._joined:
            return self._slots()
        return max(self._slots(), self._max_workers or MOST_WORKERS)

    def _in_flight(self, tasks: Iterator[SolveTask | JointTask]) -> Iterator[Any]:
        """Launches tasks, no more than may wait at once, and yields results as they are done."""
        import ray

        running: list[_Launched] = []
        a_core, task = 1, None
        wait = Wait(self._wait, joined=self._joined)
        try:
            while True:
                while self._may_launch(running, a_core) and (task := next(tasks, None)):
                    running.append(_Launched(task, self._gpus, joined=self._joined))
                    a_core = tasks_a_core(task)
                if not running:
                    return
                answers = [each.answer for each in running]
                done, _ = ray.wait(answers, num_returns=1, timeout=LOOK_AGAIN_SECONDS)
                if done:
                    wait.moved()
                    finished = running.pop(answers.index(done[0]))
                    what = f"task {finished.title}"
                    answer = get(finished.answer, what, f"{TASK_RETRIES + 1} times")
                    yield checked(answer, finished.versions, what)
                elif self._joined:
                    least = min(running, key=lambda each: each.plan.peak_bytes)
                    group = group_of_this_task()
                    wait.look(f"task {least.title}", least.plan_digest, [least.bundle], group)
                else:
                    for each in running:
                        each.check_room()
        finally:
            for each in running:
                each.close()

    def _may_launch(self, running: list[_Launched], a_core: int) -> bool:
        if len(running) < self._slots() * a_core:
            return True
        waiting = sum(each.bytes for each in running)
        return len(running) < self._asked() * a_core and waiting < PENDING_BYTES


class _Launched:
    """A task on its way to one worker; `answer` is what Ray is asked about it."""

    def __init__(self, task: SolveTask | JointTask, gpus: float, *, joined: bool) -> None:
        import ray

        from lego_ray.tasks.run import run_task

        self.plan = task.plan
        self.title = task.title
        self.versions = versions_here()
        self.plan_digest = getattr(task, "plan_digest", "")
        self._joined = joined
        self._gpus = gpus
        self._cpus = 1 / tasks_a_core(task)
        # Pickled once, here, so that its size is known.
        self._task = pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
        self.bytes = len(self._task)
        work = keeping(counting_retries(with_settings(run_task, settings_here())))
        self._remote = ray.remote(guarded(work, self.versions))
        self._submit()

    @property
    def bundle(self) -> Bundle:
        """What it reserves."""
        gpus = {"GPU": self._gpus} if self._gpus else {}
        return {"CPU": self._cpus, "memory": float(self._memory), **gpus}

    def _submit(self) -> None:
        # What a cluster reserves is all that a task may take there. A Ray of this machine's own has
        # the whole machine, and a plan estimates from above; it would wait for ever for more.
        peak = self.plan.peak_bytes
        self._memory = peak if self._joined else min(peak, _largest_node())
        remote = self._remote.options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            memory=self._memory,
            max_retries=TASK_RETRIES,
            retry_exceptions=[StoreUnavailable],
            name=f"solve {self.title}",
        )
        try:
            self.answer = remote.remote(self._task, self._gpus)
        except ValueError as error:
            group = group_of_this_task()
            if group is None:
                raise
            problem = (
                f"it needs {needs([self.bundle])}, and no bundle of the placement group that this "
                f"process gives its tasks to is so large: {state_of(group)}"
            )
            raise ClusterTooSmall(f"task {self.title}", problem, _IN_GROUP) from error

    def check_room(self) -> None:
        """Asks for less if no node that is left has so much memory."""
        if self._memory > _largest_node():  # the node it was meant for is gone
            self.close()
            self._submit()

    def close(self) -> None:
        """Gives it up."""
        import ray

        ray.cancel(self.answer, force=True)


def with_settings(work: Callable[..., Any], settings: Mapping[str, str]) -> Callable[..., Any]:
    """The same work, done with the settings of stores that the driver has.

    Args:
        work: What to do.
        settings: Of the driver.
    """

    def working(*given: Any) -> Any:
        use_settings(settings)
        return work(*given)

    return working


def keeping(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work, whose results are kept by the worker, where it can; see `tasks.run.kept`.

    Args:
        work: What to do.
    """

    def working(task: Any, *given: Any) -> Any:
        from lego_ray.tasks.run import kept

        return kept(task, work(task, *given))

    return working


def tasks_a_core(task: SolveTask | JointTask) -> int:
    """Tasks a core has at once: local reads are work of its own, remote ones are waiting."""
    return READS_BESIDE if any("://" in source.uri for source in task.sources) else 1


def _largest_node() -> int:
    return int(max(node.get("memory", 0.0) for node in totals()))
