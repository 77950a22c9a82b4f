"""Runs tasks on Ray: a local one, or a cluster that is already up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lego_ray.errors import StoreUnavailable
from lego_ray.runners.ray.answers import get
from lego_ray.runners.ray.metrics import counting_retries
from lego_ray.runners.ray.session import RaySession
from lego_ray.runners.ray.teams import LOOK_AGAIN_SECONDS, solve_on_teams
from lego_ray.storage.carried import settings_here, use_settings

if TYPE_CHECKING:
    from lego_ray.tasks.joint import JointTask
    from lego_ray.tasks.values import SolveTask

# A worker that dies (out of memory, a lost node) gives its task to another this many times.
TASK_RETRIES = 3
# Tasks a core has at once when they read from afar: one waits for its bytes while one computes.
READS_BESIDE = 2


class RayRunner:
    """Runs tasks on Ray, no more at once than its workers can take.

    Each task reserves its planned memory, so neither the queue nor finished results grow with the
    job, and Ray places no more on a node than it can hold. Spread sites come last, a few at a time.
    """

    name = "ray"

    def __init__(
        self, address: str = "local", workers: int | None = None, gpus: float = 0.0
    ) -> None:
        """Describes where to run; `start` or `run` connects.

        Args:
            address: `local` starts a Ray, `auto` joins the running cluster, or a cluster's address.
            workers: Most tasks at once; None for one a CPU of the cluster.
            gpus: Share of a GPU each task takes; 0 for none.
        """
        self._session = RaySession(address, workers)
        self._workers = workers
        self._gpus = gpus

    def start(self) -> None:
        """Begins to bring Ray up."""
        self._session.start()

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result as it is done.

        Raises:
            BadInput: If Ray cannot be started or reached.
            RunFailed: If a task failed in a way that is no `LegoRayError`, lost its worker too
                often, or cannot be placed.
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
            spread, slots=self._slots(), gpus=self._gpus, retries=TASK_RETRIES
        )

    def stop(self) -> None:
        """Begins to take Ray down, if it was started here."""
        self._session.stop()

    def close(self) -> None:
        """Takes Ray down, if it was started here, and waits for it."""
        self._session.close()

    def _slots(self) -> int:
        """Workers at once; asked each time, for nodes come and go."""
        import ray

        return self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _in_flight(self, tasks: Iterator[SolveTask | JointTask]) -> Iterator[Any]:
        """Launches tasks, no more than may run at once, and yields results as they are done."""
        import ray

        running: list[_Launched] = []
        a_core, task = 1, None
        try:
            while True:
                while len(running) < self._slots() * a_core and (task := next(tasks, None)):
                    running.append(_Launched(task, self._gpus))
                    a_core = tasks_a_core(task)
                if not running:
                    return
                answers = [each.answer for each in running]
                done, _ = ray.wait(answers, num_returns=1, timeout=LOOK_AGAIN_SECONDS)
                if done:
                    finished = running.pop(answers.index(done[0]))
                    what = f"task {finished.task.plan.name}"
                    yield get(finished.answer, what, f"{TASK_RETRIES + 1} times")
                for each in running if not done else ():
                    each.check_room()
        finally:
            for each in running:
                each.close()


class _Launched:
    """A task on its way to one worker; `answer` is what Ray is asked about it."""

    def __init__(self, task: SolveTask | JointTask, gpus: float) -> None:
        import ray

        from lego_ray.tasks.run import run_task

        self.task = task
        self._gpus = gpus
        self._remote = ray.remote(counting_retries(with_settings(run_task, settings_here())))
        self._submit()

    def _submit(self) -> None:
        # A plan estimates from above; for more than its largest node has, Ray would wait for ever.
        self._memory = min(self.task.plan.peak_bytes, _largest_node())
        self.answer = self._remote.options(
            num_cpus=1 / tasks_a_core(self.task),
            num_gpus=self._gpus,
            memory=self._memory,
            max_retries=TASK_RETRIES,
            retry_exceptions=[StoreUnavailable],
            name=f"solve {self.task.plan.name}",
        ).remote(self.task, self._gpus)

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


def tasks_a_core(task: SolveTask | JointTask) -> int:
    """Tasks a core has at once: local reads are work of its own, remote ones are waiting."""
    return READS_BESIDE if any("://" in source.uri for source in task.sources) else 1


def _largest_node() -> int:
    import ray

    return int(max(n["Resources"].get("memory", 0) for n in ray.nodes() if n["Alive"]))
