"""Nodes whose packages are not the driver's: found at the first task, since their bytes would differ."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

from lego_ray.errors import VersionMismatch

# What decides about the bytes of a merge.
PACKAGES = ("lego-ray", "torch")
# What a task answers instead of a result; plain, so that any release can send and read it.
_MARK = "lego-ray: other versions"


def versions_here() -> dict[str, str]:
    """The packages' versions in this process."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def guarded(work: Callable[..., Any], wanted: Mapping[str, str]) -> Callable[..., Any]:
    """A pickled task for a Ray worker, which looks at its packages before it unpickles anything.

    Args:
        work: What does the task.
        wanted: The driver's versions.
    """
    from ray import cloudpickle

    names, mark = dict(wanted), _MARK
    # Packed, so that nothing of it is imported on a node before the versions are compared.
    packed = cloudpickle.dumps(work)

    def looked_at(task: bytes, *given: Any) -> Any:
        # Travels by value, so that it is this release's on any node: it imports nothing of ours.
        import importlib.metadata
        import pickle

        found = {name: importlib.metadata.version(name) for name in names}
        if found != names:
            import ray

            node = f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"
            return mark, node, found
        return pickle.loads(packed)(pickle.loads(task), *given)

    return looked_at


def checked(answer: Any, wanted: Mapping[str, str], what: str) -> Any:
    """What a guarded task answered.

    Args:
        answer: The answer.
        wanted: The driver's versions.
        what: The task, for the error.

    Raises:
        VersionMismatch: If its node has other versions.
    """
    if isinstance(answer, tuple) and answer[:1] == (_MARK,):
        raise _mismatch(what, f"node {answer[1]}", answer[2], wanted)
    return answer


def check_versions(wanted: Mapping[str, str], what: str) -> None:
    """Passes if this process has the driver's versions; empty ones are not looked at.

    Args:
        wanted: The driver's versions.
        what: What is done here, for the error.

    Raises:
        VersionMismatch: If it has others.
    """
    found = versions_here() if wanted else {}
    if found != dict(wanted):
        import ray

        raise _mismatch(what, f"node {ray.util.get_node_ip_address()}", found, wanted)


def _mismatch(
    what: str, node: str, found: Mapping[str, str], wanted: Mapping[str, str]
) -> VersionMismatch:
    differ = [n for n in wanted if found.get(n) != wanted[n]]
    said = "; ".join(f"{name} {found.get(name)} there, {wanted[name]} here" for name in differ)
    return VersionMismatch(what, f"{node} has other packages than the driver ({said})")
