"""What tasks need of a cluster, what it has, and what its autoscaler says about the difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

Bundle = dict[str, float]

# In the order in which an error names what is missing.
KINDS = ("CPU", "GPU", "memory")


def totals() -> list[Bundle]:
    """What each node that is alive has, used or not."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def has_room(bundles: Iterable[Bundle]) -> bool:
    """Whether the nodes that are alive can hold all these at once, first fit, largest first."""
    nodes = totals()
    for bundle in sorted(bundles, key=lambda b: -b["memory"]):
        node = next((n for n in nodes if _fits(bundle, n)), None)
        if node is None:
            return False
        for key, need in bundle.items():
            node[key] = node.get(key, 0.0) - need
    return True


def needs(bundles: Sequence[Bundle]) -> str:
    """What some bundles need together, in words: `1 CPU and 0.40 GiB`."""
    return _said({key: sum(b.get(key, 0.0) for b in bundles) for key in KINDS})


def has() -> str:
    """What the cluster has free, and of how much, in words: `0 of 0 CPUs and 0 of 0.5 GiB free`."""
    import ray

    whole, free = ray.cluster_resources(), ray.available_resources()
    said = []
    for key in KINDS:
        if key == "GPU" and key not in whole:
            continue
        of, left = whole.get(key, 0.0), free.get(key, 0.0)
        said.append(
            f"{left / 2**30:.2f} of {of / 2**30:.2f} GiB"
            if key == "memory"
            else f"{left:g} of {of:g} {key}s"
        )
    return f"{' and '.join(said)} free"


def lacks(bundles: Sequence[Bundle]) -> str:
    """The resource that the nodes which are alive lack for some bundles at once; empty if they fit.

    Args:
        bundles: What is to be held at the same time.
    """
    if has_room(bundles):
        return ""
    nodes = totals()
    for key in KINDS:
        need = sum(b.get(key, 0.0) for b in bundles)
        have = sum(n.get(key, 0.0) for n in nodes)
        if need > have:
            return f"{_one(key, need)} needed, {_one(key, have)} there"
    for key in KINDS:
        need = max(b.get(key, 0.0) for b in bundles)
        have = max(n.get(key, 0.0) for n in nodes)
        if need > have:
            return f"{_one(key, need)} needed on one node, the largest has {_one(key, have)}"
    return f"no nodes with {needs(bundles[:1])} each for all {len(bundles)}"


def held_by_others(bundles: Sequence[Bundle], group: str = "") -> str:
    """What other work holds of a cluster that could hold some bundles; empty if it may be this run.

    A task of this run reserves at least the memory of the smallest bundle. If less is reserved on the
    whole cluster, none of them runs.

    Args:
        bundles: What waits, the smallest task of the run among it.
        group: Id of the placement group that the tasks of this run are bound to; empty if they are not.
    """
    import ray

    # Ray has what a group reserved as resources of separate names.
    end = f"_group_{group}" if group else ""
    whole, free = (
        {key: found.get(f"{key}{end}", 0.0) for key in KINDS}
        for found in (ray.cluster_resources(), ray.available_resources())
    )
    least = min(bundle["memory"] for bundle in bundles)
    if not least or whole.get("memory", 0.0) - free.get("memory", 0.0) >= least:
        return ""
    for key in KINDS:
        need, left = min(b.get(key, 0.0) for b in bundles), free.get(key, 0.0)
        if need > left:
            return f"{_one(key, need)} needed, {_one(key, left)} free beside other work"
    return ""


def is_hopeless(bundle: Bundle) -> bool:
    """Whether the autoscaler says that no node type can hold a bundle.

    It says the same of what only waits for others to end. So this is believed only while nothing but
    nodes without CPUs is up, and nothing is on its way.

    Args:
        bundle: What waits.
    """
    if any(node.get("CPU", 0.0) for node in totals()):
        return False
    state = None
    with suppress(Exception):  # an older Ray, or one whose head is busy: then it is not known
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

        address = ray.get_runtime_context().gcs_address
        reply = GetClusterStatusReply()
        reply.ParseFromString(GcsClient(address=address).get_cluster_status(timeout_s=5))
        state = reply.autoscaling_state
    if state is None or state.pending_instance_requests or state.pending_instances:
        return False
    asked = [dict(each.resources_bundle) for each in state.infeasible_resource_requests]
    for gang in state.infeasible_gang_resource_requests:
        asked += [dict(each.resources_bundle) for each in gang.requests]
        for selector in gang.bundle_selectors:
            asked += [dict(each.resources_bundle) for each in selector.resource_requests]
    return any(_same(each, bundle) for each in asked)


def _fits(bundle: Bundle, node: Bundle) -> bool:
    return all(node.get(key, 0.0) >= need for key, need in bundle.items())


def _same(asked: Bundle, bundle: Bundle) -> bool:
    # Ray keeps amounts in ten-thousandths.
    return all(abs(asked.get(key, 0.0) - need) < 1e-3 for key, need in bundle.items())


def _said(amounts: Bundle) -> str:
    return " and ".join(_one(key, amounts[key]) for key in KINDS if amounts[key])


def _one(key: str, amount: float) -> str:
    if key == "memory":
        return f"{amount / 2**30:.2f} GiB"
    return f"{amount:.4g} {key}{'' if amount == 1 else 's'}"
