"""A run's counters on Ray, for whatever scrapes the cluster.

Ray exports them from each node, under these names after `ray_`, if `ray[default]` is installed there;
without it they go nowhere, at no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan
    from lego_ray.tasks.values import TaskResult

_TAGS = ("plan", "merge")


class RunMetrics:
    """What a run has done, counted where its results arrive: in the driver, once Ray is connected.

    Each value is tagged with the first 12 digits of the plan's digest, and the merge's name. All are
    counters: what was set of a gauge, Ray exports once, so that it is gone two intervals later.
    """

    def __init__(self, plan: Plan) -> None:
        """Counts from zero: what earlier runs have done is not done again.

        Args:
            plan: The plan being run.
        """
        from ray.util.metrics import Counter

        def counter(name: str, description: str) -> Any:
            made = Counter(f"lego_ray_{name}", description=description, tag_keys=_TAGS)
            made.set_default_tags({"plan": plan.digest[:12], "merge": plan.recipe.name})
            return made

        self._adapters = counter("adapters_read", "Adapters that anything was read of.")
        self._bytes = counter("bytes_read", "Bytes of tensors fetched by tasks.")
        self._sites = counter("sites_done", "Sites solved.")
        self._retries = counter("task_retries", "Tasks started again after a fault.")
        self._inertia = counter("inertia", "Sum of squared distances over the sites solved.")
        self._seen: set[int] = set()

    def record(self, result: TaskResult) -> None:
        """Counts a task's result."""
        fresh = set(result.tensor_hashes) - self._seen
        self._seen |= fresh
        for counter, amount in (
            (self._adapters, len(fresh)),
            (self._bytes, result.bytes_read),
            (self._sites, len(result.sites)),
            (self._retries, result.retries),
            (self._inertia, result.inertia),
        ):
            if amount:  # Ray refuses to count nothing
                counter.inc(amount)


def counting_retries(solve: Callable[..., Any]) -> Callable[..., Any]:
    """The same task for a Ray worker, with its node, and how often Ray had to start it again."""

    def counted(*given: Any) -> Any:
        import ray
        from ray._private.worker import global_worker

        # Ray tells neither the driver nor, through anything public, the task itself.
        core = getattr(global_worker, "core_worker", None)
        ask = getattr(core, "get_current_task_attempt_number", lambda: 0)
        node = ""
        if ray.is_initialized():
            node = f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"
        return replace(solve(*given), worker=node, retries=int(ask()))

    return counted
