"""Whether a process that used a cluster is still there: asked of the cluster itself, by its own names.

A cluster notices within a second that a driver's process has ended, however it ended. It says nothing
of a process that is there and does nothing. One that it cannot reach may live on, so whoever relies on
this must be safe against that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from lego_ray import journal
from lego_ray.runners.ray.joining import knock

_CLUSTER, _JOB = "ray_cluster", "ray_job"
# A head that is busy takes its time; a takeover can wait for the next run.
_SECONDS = 10


def presence_here() -> dict[str, str]:
    """What the cluster that this process has joined knows it by.

    Returns:
        The cluster's id, which no other has, and the job's; empty if others could not ask about them,
        as of a process that joined through Ray's client.
    """
    import ray
    from ray._private.worker import global_worker

    if ray.util.client.ray.is_connected():
        return {}
    job = ray.get_runtime_context().get_job_id()
    return {_CLUSTER: global_worker.gcs_client.cluster_id.hex(), _JOB: job}


def has_ended(address: str, presence: Mapping[str, str]) -> bool:
    """Whether a cluster says that the process of a driver has ended.

    Args:
        address: The cluster, as `ray.init` takes it.
        presence: What `presence_here` gave in that process.

    Returns:
        False also where it is of another cluster, or the cluster cannot be asked.
    """
    cluster, job = presence.get(_CLUSTER), presence.get(_JOB)
    if not cluster or not job:
        return False
    try:
        return _has_ended(address, cluster, job)
    except Exception as error:  # of Ray's private parts: without an answer, the lease decides
        journal.note("cluster not asked", "", logging.WARNING, reason=str(error))
        return False


def _has_ended(address: str, cluster: str, job: str) -> bool:
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    place = None if "://" in address else canonicalize_bootstrap_address(address)
    if place is None:
        return False
    knock(address)  # at once, where nothing listens or a token is missing
    client = GcsClient(address=place)
    if client.cluster_id.hex() != cluster:
        return False
    jobs = client.get_all_job_info(
        skip_submission_job_info_field=True, skip_is_running_tasks_field=True, timeout=_SECONDS
    )
    return any(name.hex() == job and info.is_dead for name, info in jobs.items())
